//! What the shell sees when `efarun` ends.
//!
//! [`ExitCause`] says why a job ended; [`ExitCause::code`] is the documented number for it. A number below 64 is
//! always a rank's own. Scripts may rely on the table; `efarun --help` prints it from [`TABLE`].

use std::process::ExitCode;

use efarun_wire::message::RankStatus;

/// Why a job ended, as far as its exit code is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitCause {
    /// Every rank returned 0.
    Success,
    /// The first failing rank returned this code, or gave it to its abort call.
    RankCode(i32),
    /// This signal ended the first failing rank.
    RankSignal(i32),
    /// The command line cannot be followed.
    Usage,
    /// A hostfile, a host list or the nodes' state is not what a job can use.
    Data,
    /// A host could not be reached, was lost, or could not start its part.
    HostUnreachable,
    /// efarun itself is at fault.
    Internal,
    /// A host did not let us in, or is not the host that it claims to be.
    Authentication,
    /// `--timeout` passed.
    TimedOut,
    /// PROGRAM exists on a node but cannot be executed there.
    ProgramNotExecutable,
    /// PROGRAM was not found on a node.
    ProgramNotFound,
    /// This signal told efarun to end the job; 2 is Ctrl-C.
    LauncherSignal(i32),
}

impl ExitCause {
    /// Returns the cause that a rank's status is.
    pub fn of_rank(status: RankStatus) -> ExitCause {
        match status {
            RankStatus::Code(0) => ExitCause::Success,
            RankStatus::Code(code) => ExitCause::RankCode(code),
            RankStatus::Signal { number, .. } => ExitCause::RankSignal(number),
        }
    }

    /// Returns the number that the shell sees.
    ///
    /// A rank's code keeps its low 8 bits, as everywhere on Linux; one that would become 0 is 1, because a failure
    /// must not read as success.
    pub fn code(self) -> u8 {
        match self {
            ExitCause::Success => 0,
            ExitCause::RankCode(code) => low_bits_of_failure(code),
            ExitCause::RankSignal(number) | ExitCause::LauncherSignal(number) => {
                low_bits_of_failure(number.saturating_add(128))
            }
            ExitCause::Usage => 64,
            ExitCause::Data => 65,
            ExitCause::HostUnreachable => 69,
            ExitCause::Internal => 70,
            ExitCause::Authentication => 77,
            ExitCause::TimedOut => 110,
            ExitCause::ProgramNotExecutable => 126,
            ExitCause::ProgramNotFound => 127,
        }
    }

    /// Returns the name that reports and JSON use. It never changes once published.
    pub fn name(self) -> &'static str {
        match self {
            ExitCause::Success => "success",
            ExitCause::RankCode(_) => "rank-code",
            ExitCause::RankSignal(_) => "rank-signal",
            ExitCause::Usage => "usage",
            ExitCause::Data => "data",
            ExitCause::HostUnreachable => "host-unreachable",
            ExitCause::Internal => "internal",
            ExitCause::Authentication => "authentication",
            ExitCause::TimedOut => "timeout",
            ExitCause::ProgramNotExecutable => "program-not-executable",
            ExitCause::ProgramNotFound => "program-not-found",
            ExitCause::LauncherSignal(2) => "interrupted",
            ExitCause::LauncherSignal(_) => "stopped",
        }
    }
}

impl From<ExitCause> for ExitCode {
    fn from(cause: ExitCause) -> ExitCode {
        ExitCode::from(cause.code())
    }
}

fn low_bits_of_failure(code: i32) -> u8 {
    let [low, ..] = code.to_le_bytes();
    low.max(1)
}

/// The exit codes as `efarun --help` shows them: the number, and what it means.
pub const TABLE: &[(&str, &str)] = &[
    ("0", "every rank returned 0"),
    ("1-255", "the first failing rank's own code, where no line below applies"),
    ("64", "the command line cannot be followed: option, value, more ranks than slots"),
    ("65", "the hostfile or host list is wrong, or the nodes cannot work together"),
    ("69", "a host was unreachable, was lost, or could not start its part"),
    ("70", "efarun itself is at fault: please report it"),
    ("77", "a host did not let us in, or its host key is unknown or changed"),
    ("110", "--timeout passed"),
    ("126", "PROGRAM was found but cannot be executed"),
    ("127", "PROGRAM was not found"),
    ("128+N", "signal N ended the first failing rank, or told efarun to stop (130 is Ctrl-C)"),
];

/// Returns [`TABLE`] as lines, indented for a help text.
pub fn table_text() -> String {
    let mut text = String::new();
    for (code, meaning) in TABLE {
        text.push_str(&format!("  {code:<6} {meaning}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_killed_by_signal_gives_128_plus_the_signal() {
        assert_eq!(ExitCause::of_rank(RankStatus::Signal { number: 9, core: false }).code(), 137);
        assert_eq!(ExitCause::of_rank(RankStatus::Signal { number: 11, core: true }).code(), 139);
    }

    #[test]
    fn rank_code_is_passed_on_and_failure_never_reads_as_success() {
        assert_eq!(ExitCause::of_rank(RankStatus::Code(0)), ExitCause::Success);
        assert_eq!(ExitCause::of_rank(RankStatus::Code(3)).code(), 3);
        assert_eq!(ExitCause::RankCode(-1).code(), 255);
        assert_eq!(ExitCause::RankCode(256).code(), 1);
    }

    #[test]
    fn ctrl_c_is_130_and_term_is_143() {
        assert_eq!(ExitCause::LauncherSignal(2).code(), 130);
        assert_eq!(ExitCause::LauncherSignal(15).code(), 143);
    }

    #[test]
    fn table_names_every_fixed_code() {
        let fixed = [
            ExitCause::Success,
            ExitCause::Usage,
            ExitCause::Data,
            ExitCause::HostUnreachable,
            ExitCause::Internal,
            ExitCause::Authentication,
            ExitCause::TimedOut,
            ExitCause::ProgramNotExecutable,
            ExitCause::ProgramNotFound,
        ];
        for cause in fixed {
            let code = cause.code().to_string();
            assert!(
                TABLE.iter().any(|(listed, _)| *listed == code),
                "{cause:?} ({code}) is not in the table"
            );
        }
    }
}
