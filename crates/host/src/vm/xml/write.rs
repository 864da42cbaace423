//! A writer of XML in libvirt's style: two spaces a level, attributes in single quotes, everything escaped.

use std::fmt::Write as _;

/// Writes elements one after the other; what was opened is closed in order.
#[derive(Debug, Default)]
pub(super) struct Writer {
    text: String,
    open: Vec<&'static str>,
}

impl Writer {
    /// `<name a='b'>`, to be closed.
    pub(super) fn open(&mut self, name: &'static str, attributes: &[(&str, &str)]) {
        self.start(name, attributes);
        self.text.push_str(">\n");
        self.open.push(name);
    }

    /// `</name>` of what was opened last.
    pub(super) fn close(&mut self) {
        let name = self.open.pop().expect("every close has its open");
        self.indent();
        let _ = writeln!(self.text, "</{name}>");
    }

    /// `<name a='b'/>`.
    pub(super) fn empty(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.start(name, attributes);
        self.text.push_str("/>\n");
    }

    /// `<name a='b'>content</name>`.
    pub(super) fn text(&mut self, name: &str, attributes: &[(&str, &str)], content: &str) {
        self.start(name, attributes);
        let _ = writeln!(self.text, ">{}</{name}>", escape(content));
    }

    /// The document. Everything that was opened is closed.
    pub(super) fn finish(self) -> String {
        assert!(self.open.is_empty(), "every open has its close");
        self.text
    }

    fn start(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.indent();
        let _ = write!(self.text, "<{name}");
        for (key, value) in attributes {
            let _ = write!(self.text, " {key}='{}'", escape(value));
        }
    }

    fn indent(&mut self) {
        for _ in &self.open {
            self.text.push_str("  ");
        }
    }
}

/// Text that stands for itself, in an element or between quotes.
///
/// Characters that XML 1.0 cannot hold at all (its production 2, `Char`) become U+FFFD: libvirt then finds nothing by
/// that name and says so, which is the right refusal.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&apos;"),
            '"' => escaped.push_str("&quot;"),
            // Unescaped, a parser would turn these into spaces.
            '\t' | '\n' | '\r' => {
                let _ = write!(escaped, "&#{};", u32::from(character));
            }
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push(char::REPLACEMENT_CHARACTER),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_text_escapes_its_place(value in any::<String>(), content in any::<String>()) {
            let mut writer = Writer::default();
            writer.open("outer", &[]);
            writer.text("inner", &[("key", &value)], &content);
            writer.close();
            let text = writer.finish();
            let document = roxmltree::Document::parse(&text).unwrap();
            let inner = document.root_element().first_element_child().unwrap();
            let kept = |text: &str| -> String {
                let cannot_hold = |c: char| (c < ' ' && !"\t\n\r".contains(c)) || c == '\u{fffe}' || c == '\u{ffff}';
                text.chars().map(|c| if cannot_hold(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
            };
            prop_assert_eq!(inner.attribute("key").unwrap(), kept(&value));
            prop_assert_eq!(inner.text().unwrap_or_default(), kept(&content));
            prop_assert_eq!(document.descendants().filter(roxmltree::Node::is_element).count(), 2);
        }
    }
}
