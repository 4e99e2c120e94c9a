//! Foreign text made fit to show. Names, messages and values of a guest pass here before they stand in an error, a record
//! or a refusal.

use std::fmt::{self, Write as _};

/// Foreign text made fit to show: whatever could move a cursor, break a line or turn text around is escaped, and the
/// whole is cut to `max` bytes at a character boundary, with a mark that says so.
pub(crate) fn sanitise(text: &str, max: usize) -> String {
    const CUT: &str = "…";
    #[cfg(test)]
    if tests::RAW.get() {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len().min(max));
    for c in text.chars() {
        let before = out.len();
        match c {
            '\n' | '\t' | '\r' => out.push(' '),
            c if c.is_control() || is_invisible(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
        if out.len() > max {
            out.truncate(before);
            while out.len() + CUT.len() > max && out.pop().is_some() {}
            out.push_str(CUT);
            break;
        }
    }
    out
}

/// Characters that are not control characters by category, yet reorder or hide text (Unicode TR 36, "bidi" spoofing).
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// At most `max` bytes of the beginning of a text. Writing it out ends with the room for it.
pub(crate) fn head(text: impl fmt::Display, max: usize) -> String {
    struct Head(String, usize);
    impl fmt::Write for Head {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let room = self.1.saturating_sub(self.0.len());
            self.0.push_str(&text[..text.floor_char_boundary(room)]);
            if text.len() > room { Err(fmt::Error) } else { Ok(()) }
        }
    }
    let mut head = Head(String::new(), max);
    // The only error is "full".
    let _ = write!(head, "{text}");
    head.0
}

/// A name as Rust and TOML both write it.
pub(crate) fn quoted(text: &str) -> String {
    let escaped: String =
        text.chars().map(|c| if matches!(c, '"' | '\\') { format!("\\{c}") } else { c.into() }).collect();
    format!("\"{escaped}\"")
}

/// The name that was probably meant.
pub(crate) fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Comparing takes time by the square, and nobody means something by a name of kilobytes.
    let wrong: String = wrong.chars().take(64).collect();
    let far = |name: &'a str| (strsim::osa_distance(&wrong, name), name);
    let found = known.into_iter().map(far).filter(|(far, name)| *far <= (name.chars().count() / 3).max(1)).min();
    found.map(|(_, name)| name)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    thread_local! {
        /// Whether texts are left as they are on this thread, to see that it is found.
        pub(crate) static RAW: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }

    #[test]
    fn foreign_text_is_escaped_and_cut() {
        let cases = [
            ("plain", 10, "plain"),
            ("two\nlines\ttab", 20, "two lines tab"),
            ("\u{1b}[2J", 20, "\\u{1b}[2J"),
            ("a\u{202e}b", 20, "a\\u{202e}b"),
            ("0123456789", 10, "0123456789"),
            ("0123456789a", 10, "0123456…"),
            ("ééééé", 7, "éé…"),
            ("", 3, ""),
        ];
        for (text, max, expected) in cases {
            assert_eq!(sanitise(text, max), expected, "{text:?} cut at {max}");
            assert!(sanitise(text, max).len() <= max);
        }
    }

    #[test]
    fn names_that_are_near_are_found() {
        let known = ["http", "env", "functions", "config"];
        for (wrong, near) in
            [("htp", Some("http")), ("function", Some("functions")), ("evn", Some("env")), ("kv", None), ("", None)]
        {
            assert_eq!(nearest(wrong, known), near, "{wrong}");
        }
        assert_eq!(nearest(&"x".repeat(1_000_000), known), None);
    }
}
