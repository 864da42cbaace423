//! The failure handbook: an entry for each code of a finding, and the list of all codes.

use std::fmt::Write as _;

use tranche_core::finding::{Class, Code, Remedy};

const INTRODUCTION: &str = "\
# Failure handbook

Something has a code in brackets behind it, such as `[fewer_partitions]`: here is what to make of it. The finding's own hint knows the
names of what is concerned; an entry here says where to look and in which order. `tranche explain CODE` prints the same without a browser.
[Findings](findings.md) is the list of all codes by what a refusal with them means.

Three commands come before all else:

```sh
tranche doctor           # looks anew, and tells what is not as it should be
tranche findings         # what is wrong or waits, the gravest first
tranche support-bundle   # what somebody needs who shall help, without secrets
```

And one thing to know: whatever is refused has changed nothing, what was accepted goes on by itself when its reason is gone, and no
running VM is touched by a restart of `tranched`.

<!-- Derived from crates/core/src/finding/remedy.rs by `cargo xtask docs`; do not edit. -->
";

/// The entry of each code, in the order of the code.
pub(super) fn handbook() -> String {
    let mut text = INTRODUCTION.to_owned();
    for code in Code::ALL {
        let Remedy { look, mend } = code.remedy();
        write!(
            text,
            "\n## `{code}`\n\n{} *{}.*\n\n**Look:** {look}\n\n**Do:** {mend}\n",
            code.meaning(),
            what_it_is(code.class())
        )
        .expect("a string grows");
    }
    text
}

/// What a code of that class does to whoever asks.
fn what_it_is(class: Class) -> &'static str {
    match class {
        Class::Invalid => "A refusal of a request that cannot be (HTTP 422, 400, 413)",
        Class::NotFound => "A refusal: something is not there (HTTP 404)",
        Class::Conflict => "A refusal, or a state that lasts until somebody changes it (HTTP 409)",
        Class::Unavailable => "A refusal, or a state that may pass by itself (HTTP 503)",
        Class::Denied => "A refusal at the door (HTTP 401, 403, 429)",
        Class::Note => "Never a refusal",
    }
}

/// Every code, by what a refusal with it means.
pub(super) fn list() -> String {
    let mut text = String::from(
        "# Findings\n\n\
         Every warning, error and refusal is a finding: a stable code, a severity, what it is about, a message that says\n\
         what is wrong and with what, and a hint that says what to do about it. The command, the REST API and the daemon's\n\
         log show the same findings. Scripts may rely on the codes; the wording may get better. Each code leads to its entry\n\
         in the [failure handbook](failures.md).\n\n\
         <!-- Derived from crates/core/src/finding.rs by `cargo xtask docs`; do not edit. -->\n",
    );
    for (class, title, about) in CLASSES {
        write!(text, "\n## {title}\n\n{about}\n\n| code | what it means |\n| --- | --- |\n")
            .expect("a string grows");
        for code in Code::ALL.iter().filter(|code| code.class() == class) {
            writeln!(text, "| [`{code}`](failures.md#{code}) | {} |", code.meaning())
                .expect("a string grows");
        }
    }
    text
}

const CLASSES: [(Class, &str, &str); 6] = [
    (
        Class::Invalid,
        "The request cannot be",
        "Change the request. The API answers 422; 400 where it cannot be parsed, 413 where it is too large.",
    ),
    (
        Class::NotFound,
        "Something that is named does not exist",
        "Look at the list of what there is. The API answers 404.",
    ),
    (
        Class::Conflict,
        "It clashes with the present state",
        "Change the state that the hint names, then ask again. The API answers 409.",
    ),
    (
        Class::Unavailable,
        "It cannot be done at this moment",
        "The same request may succeed later; what was accepted goes on by itself. The API answers 503.",
    ),
    (
        Class::Denied,
        "Who asks may not",
        "Log in, or ask somebody with another role. The API answers 401, 403 or 429.",
    ),
    (Class::Note, "Good to know", "These never refuse anything."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_an_entry_and_stands_in_the_list_once() {
        let (handbook, list) = (handbook(), list());
        for code in Code::ALL {
            assert_eq!(handbook.matches(&format!("\n## `{code}`\n")).count(), 1, "{code}");
            assert_eq!(list.matches(&format!("(failures.md#{code})")).count(), 1, "{code}");
        }
    }
}
