//! Why a command line cannot be followed.

use std::path::PathBuf;

use crate::exit_code::ExitCause;

/// Why the command line cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CliExit {
    /// Nobody knows this option.
    #[error("unknown option `{option}`{}\n  hint: options come before PROGRAM; `efarun --help` lists them", suggestion_text(.suggestion))]
    UnknownOption {
        /// The option as typed.
        option: String,
        /// The option that it resembles.
        suggestion: Option<String>,
    },
    /// mpirun knows this option, efarun does not take it.
    #[error("`{option}` is an option of mpirun that efarun does not take yet\n  hint: {hint}")]
    NotTaken {
        /// The option with its values, as typed.
        option: String,
        /// What to do without it.
        hint: String,
    },
    /// A word of a list that is none of those that the list may have.
    #[error("`{option}`: unknown word `{word}`: it is one of {}", .words.join(", "))]
    UnknownWord {
        /// The option with its values, as typed.
        option: String,
        /// The word.
        word: String,
        /// The words that there are.
        words: Vec<&'static str>,
    },
    /// An option lacks its value.
    #[error("`{option}` needs a value: {option} {value_name}")]
    MissingValue {
        /// The option as typed.
        option: String,
        /// What the value is.
        value_name: String,
    },
    /// A value for an option that takes none.
    #[error("`{option}` takes no value, found `{found}`")]
    UnexpectedValue {
        /// The option as typed.
        option: String,
        /// The value.
        found: String,
    },
    /// A value that does not do.
    #[error("`{option} {value}`: {problem}")]
    BadValue {
        /// The option as typed.
        option: String,
        /// The value.
        value: String,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// Two values for an option that has one.
    #[error("`{second}` contradicts `{first}`: leave one out")]
    Contradiction {
        /// What came first, as typed.
        first: String,
        /// What came later, as typed.
        second: String,
    },
    /// A rankfile that cannot be followed.
    #[error("--rankfile: {problem}")]
    Rankfile {
        /// Its place, and what is wrong there.
        problem: String,
    },
    /// No PROGRAM.
    #[error("no program to run\n  hint: efarun [OPTIONS] PROGRAM [ARGS]…, such as `efarun -n 4 ./hello`")]
    NoProgram,
    /// A `:` that no PROGRAM stands before, or behind.
    #[error(
        "no program {place}\n  hint: efarun -n 1 ./first : -n 4 ./second; a `:` that is meant for the program itself is taken so behind `--`"
    )]
    NoProgramBesideColon {
        /// Where: `before the first \`:\``, `after the last \`:\``.
        place: String,
    },
    /// One of several programs without its number of ranks.
    #[error(
        "program {number} (`{program}`) has no -n: where there are several, each needs its number of ranks"
    )]
    NoRankCount {
        /// Which of the programs, from 1.
        number: usize,
        /// It.
        program: String,
    },
    /// Both a file of programs and a program.
    #[error("`--app {}` names the programs, and `{program}` is one more: leave one of them out", .file.display())]
    ProgramBesideApp {
        /// The file.
        file: PathBuf,
        /// The program.
        program: String,
    },
    /// The file of programs cannot be read.
    #[error("cannot read `--app {}`: {problem}", .file.display())]
    AppFileUnreadable {
        /// The file.
        file: PathBuf,
        /// Why, as a fragment.
        problem: String,
    },
    /// A line of the file of programs cannot be followed.
    #[error("{}:{line}: {problem}", .file.display())]
    AppFile {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: Box<CliExit>,
    },
    /// A configuration file cannot be followed.
    #[error("{}{}: {problem}", .file.display(), if *.line > 0 { format!(":{line}") } else { String::new() })]
    ConfigFile {
        /// The file.
        file: PathBuf,
        /// The line, from 1; 0 where it is the file as a whole.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A subcommand without what it is about.
    #[error("{problem}")]
    Subcommand {
        /// What is missing or wrong, and what would be right.
        problem: String,
    },
    /// A torchrun line without a script.
    #[error(
        "no script to run\n  hint: efarun torchrun [OPTIONS] SCRIPT [ARGS]…, such as `efarun torchrun --nproc-per-node 8 train.py`"
    )]
    NoScript,
    /// An option's name that was cut too short.
    #[error("`{option}` may be --{first} or --{second}: write more of it")]
    Ambiguous {
        /// The option as typed.
        option: String,
        /// One that begins so.
        first: String,
        /// Another.
        second: String,
    },
    /// An option that torchrun's lines say otherwise.
    #[error(
        "`{option}` is not taken by `efarun torchrun`: --nnodes and --nproc-per-node say how many ranks there are, and where"
    )]
    NotOfTorchrun {
        /// The option as typed.
        option: String,
    },
    /// Several nodes, and no word about where they are.
    #[error(
        "--nnodes asks for several nodes, and nothing says where they are\n  hint: -H HOST,HOST or --hostfile FILE starts them all from here; or type the same line on every node, with --node-rank N, --master-addr ADDRESS of node 0 and --key-file FILE"
    )]
    NoHostsForNodes,
    /// A node's number, and no place to meet.
    #[error(
        "`{option}` without a place where nodes meet\n  hint: --master-addr ADDRESS of node 0, or --rdzv-endpoint ADDRESS:PORT, the same on every node"
    )]
    NoEndpoint {
        /// The option as typed.
        option: String,
    },
    /// An option for hosts that are reached from here, on a line that is typed on every node.
    #[error(
        "`{option}` is for hosts that are started from here (-H, --hostfile), and this line is typed on every node"
    )]
    NotByHand {
        /// The option as typed.
        option: String,
    },
    /// clap refuses what we let through.
    #[error("{text}")]
    Other {
        /// Its words.
        text: String,
    },
}

impl CliExit {
    /// Returns the reason for the exit code: always [`ExitCause::Usage`].
    pub fn exit_cause(&self) -> ExitCause {
        ExitCause::Usage
    }
}

fn suggestion_text(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map_or_else(String::new, |option| format!(": did you mean `{option}`?"))
}
