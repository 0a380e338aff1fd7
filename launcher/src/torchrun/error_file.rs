//! What a rank left in its error file: torch's `@record` writes the exception there that ended it.
//!
//! Given the file's bytes, [`Account::parse`] gives what a person is told. The bytes are a rank's, so anything may be in
//! them: what is no such file is told as nothing, and what is shown is bounded and free of control characters.

use std::collections::BTreeMap;

use efarun_wire::Rank;
use serde_json::Value;

/// A rank's own account of its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The exception: `ValueError: bad batch`.
    pub message: String,
    /// Where it was raised, line by line, the innermost last.
    pub traceback: Vec<String>,
    /// When, in seconds since 1970.
    pub timestamp: Option<u64>,
}

impl Account {
    /// Reads an error file.
    pub fn parse(bytes: &[u8]) -> Option<Account> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        // An exception has a text and more within `message`; what a program writes itself may be a text alone.
        let message = value.get("message")?;
        let (text, extra) = match message {
            Value::String(text) => (text.as_str(), None),
            Value::Object(fields) => (fields.get("message")?.as_str()?, fields.get("extraInfo")),
            _ => return None,
        };
        let traceback =
            extra.and_then(|extra| extra.get("py_callstack")).and_then(Value::as_str).unwrap_or_default();
        let timestamp = extra.and_then(|extra| extra.get("timestamp"));
        let timestamp = timestamp.and_then(|time| time.as_u64().or_else(|| time.as_str()?.parse().ok()));
        let lines: Vec<String> = traceback.lines().map(shown).filter(|line| !line.is_empty()).collect();
        let message = shown(text.lines().next().unwrap_or_default());
        (!message.is_empty()).then(|| Account {
            message,
            traceback: lines[lines.len().saturating_sub(SHOWN_LINES)..].to_vec(),
            timestamp,
        })
    }

    /// Returns the lines that tell it in the report of a failure.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("  exception: {}", self.message)];
        // The last line of a traceback is the exception once more.
        let traceback = match self.traceback.split_last() {
            Some((last, rest)) if *last == self.message => rest,
            _ => &self.traceback,
        };
        lines.extend(traceback.iter().map(|line| format!("    {line}")));
        lines
    }
}

/// Returns the lines for the report of a job that this rank's failure ended: its own account, and that of a rank whose
/// exception is older by its clock, though its end was seen later.
pub fn lines(rank: Rank, files: &BTreeMap<Rank, Vec<u8>>) -> Vec<String> {
    let accounts: BTreeMap<Rank, Account> =
        files.iter().filter_map(|(rank, bytes)| Some((*rank, Account::parse(bytes)?))).collect();
    let own = accounts.get(&rank);
    let mut lines = own.map_or_else(Vec::new, Account::lines);
    let others = accounts.iter().filter(|(other, _)| **other != rank);
    let first = others
        .filter_map(|(other, account)| Some((account.timestamp?, other, account)))
        .min_by_key(|(time, other, _)| (*time, *other));
    if let Some((time, other, account)) = first
        && own.and_then(|own| own.timestamp).is_some_and(|of_own| time < of_own)
    {
        lines
            .push(format!("  rank {other} raised an exception before it, by its clock: {}", account.message));
    }
    lines
}

fn shown(line: &str) -> String {
    let text: String = line.trim_end().chars().filter(|c| !c.is_control() || *c == '\t').collect();
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

const SHOWN_LINES: usize = 12;
const SHOWN_CHARACTERS: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torchs_error_file_is_told_by_exception_and_place() {
        let file = r#"{"message": {"message": "ValueError: bad batch", "extraInfo": {"py_callstack":
            "Traceback (most recent call last):\n  File \"t.py\", line 3, in main\nValueError: bad batch\n", "timestamp": "1700000000"}}}"#;
        let account = Account::parse(file.as_bytes()).unwrap();
        assert_eq!(account.timestamp, Some(1_700_000_000));
        assert_eq!(
            account.lines(),
            [
                "  exception: ValueError: bad batch",
                "    Traceback (most recent call last):",
                "      File \"t.py\", line 3, in main"
            ]
        );
    }

    #[test]
    fn an_exception_that_is_older_is_told_beside_the_first_failure() {
        let file = |text: &str, time: u64| {
            let extra = format!("{{\"timestamp\": \"{time}\"}}");
            format!("{{\"message\": {{\"message\": \"{text}\", \"extraInfo\": {extra}}}}}").into_bytes()
        };
        let files = BTreeMap::from([(Rank(0), file("echo", 12)), (Rank(3), file("cause", 11))]);
        let told = lines(Rank(0), &files);
        assert_eq!(told[0], "  exception: echo");
        assert!(told[1].starts_with("  rank 3 raised") && told[1].ends_with("cause"), "{told:?}");
        assert_eq!(lines(Rank(3), &files), ["  exception: cause"]);
    }

    #[test]
    fn a_text_alone_is_told_and_anything_else_is_nothing() {
        let account = Account::parse(b"{\"message\": \"\\u001b[31mout of memory\\nmore\"}").unwrap();
        assert_eq!(account.lines(), ["  exception: [31mout of memory"]);
        for file in
            ["", "{", "[]", "{\"message\": 3}", "{\"message\": {}}", "{\"message\": \"\"}", "\u{fffd}"]
        {
            assert_eq!(Account::parse(file.as_bytes()), None, "{file}");
        }
        let long = format!("{{\"message\": \"{}\"}}", "é".repeat(1000));
        assert_eq!(Account::parse(long.as_bytes()).unwrap().message.chars().count(), SHOWN_CHARACTERS + 1);
    }
}
