//! Values as they may be shown.

/// Says whether a variable's value must not be shown: its name holds TOKEN, SECRET, KEY or PASSWORD, in any case.
pub fn is_secret(name: &[u8]) -> bool {
    let upper = name.to_ascii_uppercase();
    SECRET_WORDS.iter().any(|word| upper.windows(word.len()).any(|window| window == word.as_bytes()))
}

/// Returns a variable's value as it may be printed or stored: secrets replaced, control characters escaped, bytes
/// that are no text shown as U+FFFD.
pub fn printable_value(name: &[u8], value: &[u8]) -> String {
    if is_secret(name) && !value.is_empty() {
        return REDACTED.to_owned();
    }
    let text = String::from_utf8_lossy(value);
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

const SECRET_WORDS: &[&str] = &["TOKEN", "SECRET", "KEY", "PASSWORD"];

const REDACTED: &str = "<redacted>";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_anywhere_in_the_name_and_in_any_case() {
        for name in ["HF_TOKEN", "hf_token", "MY_SECRET_2", "EFARUN_KEY_FILE", "AwsPassword"] {
            assert_eq!(printable_value(name.as_bytes(), b"hunter2"), "<redacted>", "{name}");
        }
        assert_eq!(printable_value(b"PATH", b"/bin"), "/bin");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable_value(b"A", b"\x1b[31mred\nx\xff"), "\\u{1b}[31mred\\nx\u{fffd}");
    }
}
