//! What stands before each line of a rank.

use std::collections::BTreeSet;

use efarun_wire::Rank;
use efarun_wire::message::Stream;

use crate::binding::ranges;

/// How lines begin, byte for byte as under Open MPI 4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LineStyle {
    /// `[1,RANK]<stdout>:`; the first number, the job's, is always 1.
    pub tag: bool,
    /// The time, by the second, and `<stdout>:` where there is no tag.
    pub timestamp: bool,
    /// Ranks write standard error to the same pipe as standard output, so that its last lines are there too.
    pub merged: bool,
}

impl LineStyle {
    /// Says whether lines stay as ranks wrote them.
    pub(super) fn is_plain(self) -> bool {
        !self.tag && !self.timestamp
    }

    /// Returns what stands before a line that is written at the time that `now` tells.
    pub(super) fn prefix(self, rank: Rank, stream: Stream, now: fn() -> String) -> String {
        let stream = if stream == Stream::Stdout { "stdout" } else { "stderr" };
        let time = if self.timestamp { now() } else { String::new() };
        let tag = if self.tag { format!("[1,{rank}]") } else { String::new() };
        format!("{time}{tag}<{stream}>:")
    }

    /// Returns what stands before a line that several ranks have written: `[0-15] `, or the same in the tag.
    pub(super) fn prefix_of_several(
        self,
        ranks: &BTreeSet<Rank>,
        stream: Stream,
        now: fn() -> String,
    ) -> String {
        let numbers: Vec<u32> = ranks.iter().map(|rank| rank.0).collect();
        let ranks = ranges(&numbers);
        let time = if self.timestamp { now() } else { String::new() };
        match (self.tag, stream) {
            (true, Stream::Stdout) => format!("{time}[1,{ranks}]<stdout>:"),
            (true, Stream::Stderr) => format!("{time}[1,{ranks}]<stderr>:"),
            (false, _) if self.timestamp => format!("{time} [{ranks}] "),
            (false, _) => format!("[{ranks}] "),
        }
    }
}

/// The local time as C's `ctime` writes it, without its end of line: `Sat Nov 21 12:17:04 2026`.
pub(super) fn local_time() -> String {
    jiff::Zoned::now().strftime("%a %b %e %H:%M:%S %Y").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_open_mpis() {
        let now = || "Sat Nov  1 12:17:04 2025".to_owned();
        let prefix =
            |tag, timestamp| LineStyle { tag, timestamp, merged: false }.prefix(Rank(3), Stream::Stderr, now);
        assert_eq!(prefix(true, false), "[1,3]<stderr>:");
        assert_eq!(prefix(false, true), "Sat Nov  1 12:17:04 2025<stderr>:");
        assert_eq!(prefix(true, true), "Sat Nov  1 12:17:04 2025[1,3]<stderr>:");
    }

    #[test]
    fn ranks_stand_before_a_line_that_they_share() {
        let ranks = BTreeSet::from([0, 1, 2, 5].map(Rank));
        let prefix = |tag, timestamp| {
            let style = LineStyle { tag, timestamp, merged: false };
            style.prefix_of_several(&ranks, Stream::Stderr, || "now".to_owned())
        };
        assert_eq!(
            (prefix(false, false), prefix(true, false)),
            ("[0-2,5] ".into(), "[1,0-2,5]<stderr>:".into())
        );
        assert_eq!(
            (prefix(false, true), prefix(true, true)),
            ("now [0-2,5] ".into(), "now[1,0-2,5]<stderr>:".into())
        );
    }

    #[test]
    fn time_has_the_form_of_ctime() {
        let time = local_time();
        assert_eq!((time.len(), time.as_bytes()[13], time.as_bytes()[19]), (24, b':', b' '), "{time}");
    }
}
