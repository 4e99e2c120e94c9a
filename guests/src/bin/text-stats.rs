//! A scan plugin: how many lines, words and characters a text has, and its longest line.
#![no_main]

wit_bindgen::generate!({ path: "wit/plugin.wit", world: "plugin" });

struct TextStats;

impl Guest for TextStats {
    fn inspect(file: File) -> Result<Report, String> {
        let text = std::str::from_utf8(&file.content).map_err(|e| format!("{} is not UTF-8 text: {e}", file.path))?;
        // Of lines of the same length, the first.
        let longest = text.lines().enumerate().max_by_key(|(at, line)| (line.chars().count(), std::cmp::Reverse(*at)));

        let mut facts = vec![
            ("lines".to_string(), text.lines().count().to_string()),
            ("words".to_string(), text.split_whitespace().count().to_string()),
            ("chars".to_string(), text.chars().count().to_string()),
        ];
        if let Some((at, line)) = longest {
            facts.push(("longest-line".to_string(), (at + 1).to_string()));
            facts.push(("longest-line-chars".to_string(), line.chars().count().to_string()));
        }
        Ok(Report { facts, findings: Vec::new() })
    }
}

export!(TextStats);
