//! Takes secrets out of what goes into a support bundle. In doubt something is a secret: a bundle is sent to others.
//!
//! What has fields loses the values of those whose names speak of secrets, wherever they are, and options of fence agents whatever
//! their names. Text, also that within fields, loses what follows such a name and `=` or `:`, and what has the form of a token, a hash
//! of a password, a private key, or a password in a URL.

use serde_json::Value;
use tranche_api::secret::{HIDDEN, is_secret};

/// How tokens begin: of the REST interface, and for joining a cluster.
const TOKENS: [&str; 2] = ["tranche_", "TRANCHE1"];
/// What a shorter word holds is no secret of a token.
const TOKEN_LEN_MIN: usize = 20;
/// How hashes of passwords begin.
const HASHES: [&str; 6] = ["$argon2", "$y$", "$6$", "$5$", "$2", "$1$"];
/// What names a way to say who one is, before the secret itself.
const SCHEMES: [&str; 2] = ["bearer", "basic"];

/// JSON from the daemon, as people read it. What is no JSON is text.
pub(super) fn answer(bytes: &[u8]) -> Result<String, String> {
    let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else { return text(bytes) };
    hide(&mut value);
    serde_json::to_string_pretty(&value).map(|text| text + "\n").map_err(|error| error.to_string())
}

/// The daemon's settings, without comments: nobody knows what stands in them.
pub(super) fn settings(bytes: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(bytes);
    // What the parser says shows the line that it stumbled over.
    let unreadable = |_| "it is no TOML, so nobody knows what in it is secret".to_owned();
    let mut value: Value = toml::from_str(&text).map_err(unreadable)?;
    hide(&mut value);
    toml::to_string_pretty(&value).map_err(|error| error.to_string())
}

/// Lines of text.
pub(super) fn text(bytes: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(bytes);
    let (mut clean, mut in_key) = (String::with_capacity(text.len()), false);
    for said in text.lines() {
        let (begins, ends) = (said.contains("-----BEGIN "), said.contains("-----END "));
        if begins || in_key {
            clean.push_str(HIDDEN);
        } else {
            clean.push_str(&line(said));
        }
        clean.push('\n');
        in_key = (begins || in_key) && !ends;
    }
    Ok(clean)
}

fn hide(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let holds = !matches!(value, Value::Null | Value::Bool(_));
                match value {
                    Value::Object(options) if name == "options" => {
                        options.values_mut().for_each(|value| *value = Value::from(HIDDEN));
                    }
                    _ if holds && is_secret(name) => *value = Value::from(HIDDEN),
                    _ => hide(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::String(said) => {
            let clean = said.split('\n').map(line).collect::<Vec<_>>().join("\n");
            *said = if said.contains("-----BEGIN ") { HIDDEN.to_owned() } else { clean };
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// One line of text.
pub(super) fn line(said: &str) -> String {
    let mut clean = String::with_capacity(said.len());
    let mut rest = said;
    while let Some(first) = rest.chars().next() {
        if let Some(len) = hash_len(rest) {
            clean.push_str(HIDDEN);
            rest = &rest[len..];
        } else if let Some(len) = rest.strip_prefix("://").and_then(login_len) {
            clean.push_str("://");
            clean.push_str(HIDDEN);
            rest = &rest[3 + len..];
        } else if is_of_a_word(first) {
            let (word, after) = rest.split_at(until(rest, |c| !is_of_a_word(c)));
            clean.push_str(word);
            let kept = after.len();
            rest = after_secret(word, after, &mut clean);
            debug_assert!(rest.len() <= kept);
        } else {
            clean.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    clean
}

/// What comes after a word and the secret that belongs to it, if any does.
fn after_secret<'a>(word: &str, after: &'a str, clean: &mut String) -> &'a str {
    let is_token = TOKENS.iter().any(|begin| word.starts_with(begin));
    if is_token && let Some(secret) = after.strip_prefix('.') {
        let len = until(secret, |c| !is_of_a_word(c));
        if len >= TOKEN_LEN_MIN {
            clean.push('.');
            clean.push_str(HIDDEN);
            return &secret[len..];
        }
    }
    if SCHEMES.contains(&word.to_ascii_lowercase().as_str()) && after.starts_with(' ') {
        let secret = after.trim_start();
        let len = until(secret, |c| c.is_whitespace() || "\"',;".contains(c));
        if len >= TOKEN_LEN_MIN / 2 {
            clean.push(' ');
            clean.push_str(HIDDEN);
            return &secret[len..];
        }
    }
    if !is_secret(word) {
        return after;
    }
    // A name may be in quotes, which may be escaped in a text within a text.
    let quote = |c: char| c == '"' || c == '\'' || c == '\\';
    let sign = after.trim_start_matches(quote).trim_start();
    if !sign.starts_with(['=', ':']) || sign.starts_with("::") {
        return after;
    }
    let value = sign[1..].trim_start_matches(['=', '>']).trim_start();
    let secret = value.trim_start_matches(quote);
    let opening = &value[..value.len() - secret.len()];
    clean.push_str(&after[..after.len() - value.len()]);
    clean.push_str(opening);
    if secret.is_empty() {
        return secret;
    }
    clean.push_str(HIDDEN);
    let len = match opening.chars().last() {
        // To the quote that closes it. A quote within it is escaped once more than that one.
        Some(quote) => closing(secret, quote, opening.chars().filter(|c| *c == '\\').count()),
        // A list, or a word or more after a colon: the end of it is not known.
        None if sign.starts_with(':') || secret.starts_with(['[', '{', '(']) => secret.len(),
        None => until(secret, |c| c.is_whitespace() || "&,;)}]\"'".contains(c)),
    };
    &secret[len..]
}

/// Where a text in quotes ends, before the quote and the escapes that belong to it.
fn closing(secret: &str, quote: char, escapes: usize) -> usize {
    let mut before = 0;
    for (at, c) in secret.char_indices() {
        if c == quote && before <= escapes {
            return at - before;
        }
        before = if c == '\\' { before + 1 } else { 0 };
    }
    secret.len()
}

/// How long a hash of a password is that begins here.
fn hash_len(text: &str) -> Option<usize> {
    HASHES.iter().find(|begin| text.starts_with(*begin))?;
    let len = until(text, |c| c.is_whitespace() || "\"'\\".contains(c));
    (len >= TOKEN_LEN_MIN).then_some(len)
}

/// How long a name with a password is that begins here, in a URL.
fn login_len(text: &str) -> Option<usize> {
    let host = &text[..until(text, |c| c.is_whitespace() || "/\"'".contains(c))];
    host.rfind('@')
}

fn is_of_a_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// How many bytes there are before the first such character.
fn until(text: &str, is_end: impl Fn(char) -> bool) -> usize {
    text.find(is_end).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_lose_what_follows_the_name_of_a_secret_and_what_looks_like_one() {
        let lines = "\
host=node1 password=S3CRET state=up
--fence-option login_passwd=S3CRET,ip=10.0.0.1
Password: S3CRET two S3CRET
{\"level\":\"info\",\"auth-token\":\"S3CRET \\\"S3CRET\\\" x\",\"took\":\"3ms\"}
asked={\\\"user_data\\\":\\\"S3CRET S3CRET\\\",\\\"name\\\":\\\"a\\\"}
GET /login?link=S3CRET&next=/ HTTP/1.1
Authorization: Bearer S3CRETS3CRETS3CRET
curl -H Bearer S3CRETS3CRETS3CRET done
token tranche_ci.S3CRETAAAAAAAAAAAAAAAAAAAAAA was used
join TRANCHE1.S3CRETAAAAAAAAAAAAAAAAAAAAAAAAA
users alice $argon2id$v=19$m=19456,t=2,p=1$S3CRET$S3CRET ok
https://root:S3CRET@etcd1:2379/health
-----BEGIN PRIVATE KEY-----
S3CRETS3CRET
-----END PRIVATE KEY-----
eth0: Link is up, keyboard found, tranche_vms 3, tranche_core::secret::hide
secrets = [\"S3CRET\", \"S3CRET\"]
password=
";
        let clean = text(lines.as_bytes()).unwrap();
        assert!(!clean.contains("S3CRET"), "{clean}");
        expect![[r#"
            host=node1 password=(hidden) state=up
            --fence-option login_passwd=(hidden),ip=10.0.0.1
            Password: (hidden)
            {"level":"info","auth-token":"(hidden)","took":"3ms"}
            asked={\"user_data\":\"(hidden)\",\"name\":\"a\"}
            GET /login?link=(hidden)&next=/ HTTP/1.1
            Authorization: (hidden)
            curl -H Bearer (hidden) done
            token tranche_ci.(hidden) was used
            join TRANCHE1.(hidden)
            users alice (hidden) ok
            https://(hidden)@etcd1:2379/health
            (hidden)
            (hidden)
            (hidden)
            eth0: Link is up, keyboard found, tranche_vms 3, tranche_core::secret::hide
            secrets = (hidden)
            password=
        "#]]
        .assert_eq(&clean);
    }

    #[test]
    fn fields_lose_their_values_wherever_they_are() {
        // In the order of their names, which JSON may be read in or not.
        let value = json!({
            "fence": {"agent": "ipmilan", "options": {"ip": "S3CRET", "password": "S3CRET"}},
            "is_link_measured": true,
            "log": ["said password=S3CRET\nand token=S3CRET"],
            "password_at": null,
            "pem": "-----BEGIN PRIVATE KEY-----\nS3CRET",
            "token": 4711,
            "vms": [{"hardware": {"cloud_init": "S3CRET"}, "labels": {"api-key": "S3CRET"}, "name": "a"}],
        });
        let clean = answer(value.to_string().as_bytes()).unwrap();
        assert!(!clean.contains("S3CRET") && !clean.contains("4711"), "{clean}");
        expect![[r#"
            {
              "fence": {
                "agent": "ipmilan",
                "options": {
                  "ip": "(hidden)",
                  "password": "(hidden)"
                }
              },
              "is_link_measured": true,
              "log": [
                "said password=(hidden)\nand token=(hidden)"
              ],
              "password_at": null,
              "pem": "(hidden)",
              "token": "(hidden)",
              "vms": [
                {
                  "hardware": {
                    "cloud_init": "(hidden)"
                  },
                  "labels": {
                    "api-key": "(hidden)"
                  },
                  "name": "a"
                }
              ]
            }
        "#]]
        .assert_eq(&clean);
        expect![[r#"
            no JSON, password=(hidden)
        "#]]
        .assert_eq(&answer(b"no JSON, password=S3CRET").unwrap());
    }

    #[test]
    fn settings_lose_secrets_and_comments_and_what_cannot_be_read_is_left_out() {
        let toml = "\
# password = \"S3CRET\"
host = \"node1\"
[etcd]
endpoints = [\"https://root:S3CRET@etcd1:2379\"]
key = \"/S3CRET\"
[secrets]
bmc = '''
S3CRET'''
";
        expect![[r#"
            host = "node1"
            secrets = "(hidden)"

            [etcd]
            endpoints = ["https://(hidden)@etcd1:2379"]
            key = "(hidden)"
        "#]]
        .assert_eq(&settings(toml.as_bytes()).unwrap());
        expect!["it is no TOML, so nobody knows what in it is secret"]
            .assert_eq(&settings(b"password = S3CRET").unwrap_err());
    }
}
