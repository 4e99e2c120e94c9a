//! [`Exception`]: what a script threw, and where.

use crate::text::sanitise;
use std::fmt;

/// What a script threw, or what is wrong with its source: text of whoever wrote the script, made fit to show and cut.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Exception {
    name: String,
    message: String,
    place: Option<(u32, u32)>,
    excerpt: String,
    stack: Vec<String>,
}

const MAX_NAME: usize = 64;
const MAX_MESSAGE: usize = 512;
const MAX_EXCERPT: usize = 120;
const MAX_FRAME: usize = 120;
const MAX_FRAMES: usize = 8;

impl Exception {
    pub(crate) fn new(name: &str, message: &str, stack: &str, place: (u32, u32), source: &str) -> Exception {
        let place = (place.0 > 0).then_some(place);
        let line = place.and_then(|(line, _)| source.lines().nth(line as usize - 1));
        let column = place.map_or(1, |(_, column)| column.max(1) as usize - 1);
        let frames = stack.lines().map(|line| line.trim().trim_start_matches("at "));
        Exception {
            name: sanitise(name, MAX_NAME),
            message: sanitise(message, MAX_MESSAGE),
            place,
            excerpt: line.map(|line| excerpt(line, column)).unwrap_or_default(),
            stack: frames.take(MAX_FRAMES).map(|frame| sanitise(frame, MAX_FRAME)).collect(),
        }
    }

    /// The name of the error's class, such as `TypeError`; empty for what is no error.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it says.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The line of the source, from 1, if it is known.
    pub fn line(&self) -> Option<u32> {
        self.place.map(|(line, _)| line)
    }

    /// The column in that line, from 1, in characters of UTF-16.
    pub fn column(&self) -> Option<u32> {
        self.place.map(|(_, column)| column)
    }

    /// That line, or a piece of it around the column; empty if it is not known.
    pub fn excerpt(&self) -> &str {
        &self.excerpt
    }

    /// The functions that were running, innermost first, each with its place.
    pub fn stack(&self) -> &[String] {
        &self.stack
    }
}

/// A piece of the line that has the column in it.
fn excerpt(line: &str, column: usize) -> String {
    let line = line.trim_end();
    // Half before the column, half behind it.
    let start = line.char_indices().map(|(at, _)| at).take(column + 1).last().unwrap_or(0);
    let start = if start <= MAX_EXCERPT / 2 { 0 } else { line.ceil_char_boundary(start - MAX_EXCERPT / 2) };
    sanitise(line[start..].trim_start(), MAX_EXCERPT)
}

impl fmt::Display for Exception {
    /// One line: ``TypeError: cannot read property 'x' of undefined, at line 3, column 5: `const y = input.x.y;` ``.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name.as_str(), self.message.as_str()) {
            ("", message) => write!(f, "\"{message}\"")?,
            (name, "") => f.write_str(name)?,
            (name, message) => write!(f, "{name}: {message}")?,
        }
        if let Some((line, column)) = self.place {
            write!(f, ", at line {line}, column {column}")?;
        }
        if !self.excerpt.is_empty() {
            write!(f, ": `{}`", self.excerpt)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_where_in_the_source() {
        let source = "export default function (x) {\r\n  return x.a.b;\r\n}";
        let exception = Exception::new("TypeError", "no b", "    at default (script:2:14)\n", (2, 14), source);
        assert_eq!(exception.to_string(), "TypeError: no b, at line 2, column 14: `return x.a.b;`");
        assert_eq!(exception.stack(), ["default (script:2:14)"]);
    }

    #[test]
    fn places_that_are_nowhere_show_nothing() {
        for place in [(0, 0), (1, 0), (1, u32::MAX), (u32::MAX, 1), (2, 3)] {
            let exception = Exception::new("E", "", "", place, "é");
            assert!(exception.excerpt().len() <= 2, "{place:?}");
        }
    }

    #[test]
    fn a_long_line_is_shown_around_the_column() {
        let line = format!("{}HERE{}", "é".repeat(1000), "x".repeat(1000));
        let shown = Exception::new("E", "", "", (1, 1001), &line);
        assert!(shown.excerpt().contains("HERE") && shown.excerpt().len() <= MAX_EXCERPT, "{shown}");
    }
}
