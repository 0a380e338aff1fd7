//! Comments of Open MPI's hostfiles, which are C's beside `#`.

use std::borrow::Cow;

/// Replaces `/* … */` and `// …` by blanks, so that everything else keeps its place; `#` and what follows it on its line
/// stay. On failure, where a comment begins that does not end.
pub(super) fn blanked(bytes: &[u8]) -> Result<Cow<'_, [u8]>, usize> {
    if !bytes.contains(&b'/') {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut blanked = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let len = if rest.starts_with(b"#") {
            line_len(rest)
        } else if rest.starts_with(b"//") {
            blank(&mut blanked, at, line_len(rest))
        } else if rest.starts_with(b"/*") {
            let end = rest[2..].windows(2).position(|pair| pair == b"*/").ok_or(at)?;
            blank(&mut blanked, at, end + 4)
        } else {
            1
        };
        at += len;
    }
    Ok(Cow::Owned(blanked))
}

fn line_len(rest: &[u8]) -> usize {
    rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())
}

/// Line ends stay: they give lines their numbers.
fn blank(bytes: &mut [u8], at: usize, len: usize) -> usize {
    bytes[at..at + len]
        .iter_mut()
        .filter(|byte| !matches!(byte, b'\n' | b'\r'))
        .for_each(|byte| *byte = b' ');
    len
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &str) -> String {
        String::from_utf8(blanked(bytes.as_bytes()).unwrap().into_owned()).unwrap()
    }

    #[test]
    fn comments_become_blanks_and_everything_else_keeps_its_place() {
        assert_eq!(text("a // b\nc /* d */ e"), "a     \nc         e");
        assert_eq!(text("a /* b\nc */ d"), "a     \n     d");
        assert_eq!(text("a # /* b\nc"), "a # /* b\nc");
        assert_eq!(text("a /* # */ b"), "a         b");
        assert_eq!(blanked(b"a\n/* b"), Err(2));
        assert_eq!(blanked(b"/*/"), Err(0));
    }
}
