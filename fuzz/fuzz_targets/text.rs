//! Any text made fit to show, as it stands in an error: no longer than it may be, and nothing in it that moves a cursor,
//! breaks a line or hides.
#![no_main]

#[path = "../../src/text.rs"]
#[allow(dead_code)]
mod text;

use libfuzzer_sys::fuzz_target;
use text::{head, quoted, sanitise};

fuzz_target!(|input: (u16, &str)| {
    let (max, foreign) = (usize::from(input.0), input.1);
    let shown = sanitise(foreign, max);
    // The mark that it was cut takes three bytes.
    assert!(shown.len() <= max.max(3), "{} of {max}", shown.len());
    assert!(!shown.chars().any(|c| c.is_control()), "{shown:?}");
    let hides = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    assert!(!shown.contains(hides), "{shown:?}");
    assert_eq!(sanitise(&shown, usize::MAX), shown, "what is fit stays as it is");
    if foreign.chars().all(|c| c.is_ascii_graphic() || c == ' ') && foreign.len() <= max {
        assert_eq!(shown, foreign, "what was fit is as it was");
    }
    let beginning = head(foreign, max);
    assert!(beginning.len() <= max && foreign.starts_with(&beginning));
    assert!(foreign.len() > max || beginning == foreign);
    let name = quoted(foreign);
    let inside = name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap();
    assert_eq!(inside.replace("\\\"", "").matches('"').count(), 0, "{name}");
});
