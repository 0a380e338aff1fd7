//! What the remote shell's answers mean, without I/O.
//!
//! A [`Dialogue`] is fed bytes as they arrive and gives back what the head has to do. Lines without the marker are
//! noise: a little of it is remembered, for it usually says why no answer comes.

use crate::spawn::push::script::{ARCHITECTURE, MARKER};
use crate::spawn::push::{Installed, PushError};

/// What the head has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Send the executable's bytes, and nothing after them.
    SendExecutable,
    /// The agent has the streams.
    Started(Installed),
}

/// The state of one conversation.
#[derive(Debug, Default)]
pub(crate) struct Dialogue {
    pending: Vec<u8>,
    noise: Vec<u8>,
    noise_bytes: usize,
    skipped: Vec<String>,
    has_heard_a_word: bool,
}

impl Dialogue {
    /// Before the first byte.
    pub(crate) fn new() -> Self {
        Dialogue::default()
    }

    /// Takes bytes as they arrived.
    ///
    /// # Errors
    ///
    /// When there is no end to the noise.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), PushError> {
        self.pending.extend_from_slice(bytes);
        if self.noise_bytes + self.pending.len() > MAX_NOISE_BYTES {
            self.remember_pending();
            return Err(PushError::Noise { limit_bytes: MAX_NOISE_BYTES, heard: self.heard() });
        }
        Ok(())
    }

    /// Whether the shell has come past its start-up files.
    pub(crate) fn has_heard_a_word(&self) -> bool {
        self.has_heard_a_word
    }

    /// Gives the next thing to do, if what has arrived asks for one.
    ///
    /// # Errors
    ///
    /// When the shell gives up, or is on the wrong kind of machine.
    pub(crate) fn next_reply(&mut self) -> Result<Option<Reply>, PushError> {
        while let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            // Noise need not end its last line.
            let Some((before, answer)) = line.split_once(MARKER) else {
                self.remember(line.as_bytes());
                continue;
            };
            self.remember(before.as_bytes());
            self.has_heard_a_word = true;
            let (word, rest) = answer.trim().split_once(' ').unwrap_or((answer.trim(), ""));
            match word {
                "arch" if rest != ARCHITECTURE => {
                    return Err(PushError::OtherArchitecture { theirs: rest.to_owned() });
                }
                "need" => return Ok(Some(Reply::SendExecutable)),
                "skip" => self.skipped.push(rest.trim_end_matches([':', ' ']).to_owned()),
                "run" if self.pending.is_empty() => {
                    let skipped = std::mem::take(&mut self.skipped);
                    return Ok(Some(Reply::Started(Installed { path: rest.to_owned(), skipped })));
                }
                "run" => {
                    let shown = &self.pending[..self.pending.len().min(SHOWN_STRAY_BYTES)];
                    return Err(PushError::Stray(String::from_utf8_lossy(shown).into_owned()));
                }
                "fail" => return Err(PushError::NoCache(std::mem::take(&mut self.skipped))),
                // `arch` of the right kind, or a word of a later version that this one can do without.
                _ => {}
            }
        }
        Ok(None)
    }

    /// What it means that the stream has ended here.
    pub(crate) fn ended(&mut self) -> PushError {
        self.remember_pending();
        if self.skipped.is_empty() {
            PushError::Ended { end: None, heard: self.heard() }
        } else {
            PushError::NoCache(std::mem::take(&mut self.skipped))
        }
    }

    /// What it means that nothing more came in time.
    pub(crate) fn silent(&mut self, waited_s: u64) -> PushError {
        self.remember_pending();
        PushError::Silent { waited_s, heard: self.heard() }
    }

    fn remember_pending(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        self.remember(&pending);
    }

    fn remember(&mut self, bytes: &[u8]) {
        self.noise_bytes += bytes.len();
        self.noise.extend_from_slice(bytes);
        let surplus = self.noise.len().saturating_sub(REMEMBERED_NOISE_BYTES);
        self.noise.drain(..surplus);
    }

    fn heard(&self) -> String {
        let text = String::from_utf8_lossy(&self.noise);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(3)..].join(" / ")
    }
}

/// More noise than this is no greeting.
const MAX_NOISE_BYTES: usize = 1 << 20;

/// How much of what should not be there is repeated.
const SHOWN_STRAY_BYTES: usize = 80;

/// How much of it is kept for messages.
const REMEMBERED_NOISE_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn replies(dialogue: &mut Dialogue, text: &str) -> Result<Vec<Reply>, PushError> {
        dialogue.push(text.as_bytes())?;
        let mut replies = Vec::new();
        while let Some(reply) = dialogue.next_reply()? {
            replies.push(reply);
        }
        Ok(replies)
    }

    #[test]
    fn noise_before_and_between_answers_is_skipped_however_it_is_cut() {
        let text = format!(
            "Welcome!\nno end of line{MARKER} arch {ARCHITECTURE}\n\u{fffd}junk\n{MARKER} need\n{MARKER} run /a b/efarun\n"
        );
        for cut in 0..text.len() {
            if !text.is_char_boundary(cut) {
                continue;
            }
            let mut dialogue = Dialogue::new();
            let mut seen = replies(&mut dialogue, &text[..cut]).unwrap();
            seen.extend(replies(&mut dialogue, &text[cut..]).unwrap());
            let installed = Installed { path: "/a b/efarun".into(), skipped: Vec::new() };
            assert_eq!(seen, [Reply::SendExecutable, Reply::Started(installed)], "cut at {cut}");
        }
    }

    #[test]
    fn another_architecture_is_told_before_anything_is_sent() {
        let error =
            replies(&mut Dialogue::new(), &format!("{MARKER} arch s390x\n{MARKER} need\n")).unwrap_err();
        assert_eq!(error, PushError::OtherArchitecture { theirs: "s390x".into() });
    }

    #[test]
    fn when_no_cache_is_left_each_is_named_with_its_reason() {
        let text = format!("{MARKER} skip /home/a: read-only\n{MARKER} skip /tmp/b: full\n{MARKER} fail\n");
        let error = replies(&mut Dialogue::new(), &text).unwrap_err();
        assert_eq!(error, PushError::NoCache(vec!["/home/a: read-only".into(), "/tmp/b: full".into()]));
    }

    #[test]
    fn an_early_end_repeats_what_was_printed_last() {
        let mut dialogue = Dialogue::new();
        assert_eq!(replies(&mut dialogue, "one\ntwo\nthree\n\nThis account is disabled.").unwrap(), []);
        assert_eq!(
            dialogue.ended(),
            PushError::Ended { end: None, heard: "two / three / This account is disabled.".into() }
        );
    }

    #[test]
    fn bytes_behind_the_last_answer_are_an_error() {
        let error = replies(&mut Dialogue::new(), &format!("{MARKER} run /x\nhello")).unwrap_err();
        assert_eq!(error, PushError::Stray("hello".into()));
    }

    #[test]
    fn endless_noise_is_given_up() {
        let mut dialogue = Dialogue::new();
        let error = (0..2000).find_map(|_| replies(&mut dialogue, &"y\n".repeat(512)).err()).unwrap();
        assert!(matches!(error, PushError::Noise { .. }), "{error}");
    }
}
