//! Which fields hold secrets, by their names: what is recorded or handed on leaves their values out.

/// What stands where a secret was.
pub const HIDDEN: &str = "(hidden)";

/// Parts of the names of fields that hold secrets, without `-` and `_`.
///
/// A secret may be anywhere in what cloud-init is given. Hashes open nothing, but show who has the same password.
const WORDS: [&str; 15] = [
    "authorization",
    "cloudinit",
    "cookie",
    "credential",
    "hash",
    "key",
    "link",
    "passphrase",
    "passwd",
    "password",
    "pwd",
    "secret",
    "token",
    "userdata",
    "vendordata",
];

/// Whether a field of this name holds a secret. In doubt it does.
pub fn is_secret(name: &str) -> bool {
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    let name = name.to_ascii_lowercase();
    WORDS.iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_known_however_their_names_are_written() {
        for name in
            ["password", "login_passwd", "User-Data", "cloud_init", "apiKey", "TOKEN", "password_hash"]
        {
            assert!(is_secret(name), "{name}");
        }
        for name in ["host", "passthrough", "pass_age_ms", "partition", "username", "ip"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
