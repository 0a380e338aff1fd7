//! What the values of options mean, one parser per kind of value.
//!
//! Each takes the value's exact bytes and says, on failure, what would be right; the caller adds option and value.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use efarun_wire::Rank;

use crate::hostfile::MAX_SLOTS;
use crate::job::{DryRun, EventsTo, Export, ForwardedSignals, OnFailure, OutputFolder, StdinTo};
use crate::mapping::MAX_RANKS;
use crate::supervise::signals;

/// A number of ranks, 1 to [`MAX_RANKS`].
pub(super) fn rank_count(text: &str) -> Result<u32, String> {
    let wanted = format!("it must be a number from 1 to {MAX_RANKS}");
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wanted);
    }
    if text.starts_with('-') || digits.bytes().all(|byte| byte == b'0') {
        return Err(format!("at least one rank is needed; {wanted}"));
    }
    digits
        .parse()
        .ok()
        .filter(|count| *count <= MAX_RANKS)
        .ok_or_else(|| format!("that is too many; {wanted}"))
}

/// A time in seconds, more than 0.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let wanted = "it must be a number of seconds, more than 0, such as 90 or 0.5";
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let seconds = text.parse::<f64>().ok().filter(|seconds| plain && *seconds > 0.0).ok_or(wanted)?;
    if seconds > LONGEST_S {
        return Err(format!("that is more than ten years; {wanted}"));
    }
    Ok(Duration::from_secs_f64(seconds).max(Duration::from_millis(1)))
}

/// A time in seconds, 0 allowed.
pub(super) fn grace(text: &str) -> Result<Duration, String> {
    if text.parse::<f64>().is_ok_and(|seconds| seconds == 0.0 && !text.starts_with('-')) {
        return Ok(Duration::ZERO);
    }
    let wanted = "it must be a number of seconds up to an hour, such as 5 or 0.5; 0 kills at once";
    seconds(text).ok().filter(|grace| *grace <= LONGEST_GRACE).ok_or_else(|| wanted.to_owned())
}

/// Signals to pass on: names or numbers with commas, or `none`.
pub(super) fn forwarded_signals(text: &str) -> Result<ForwardedSignals, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(ForwardedSignals::None);
    }
    let mut numbers = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let number = signal_number(word).ok_or_else(|| {
            format!("`{word}` is no signal: they are called USR1, SIGWINCH, … or have a number")
        })?;
        if !signals::can_be_passed_on(number) {
            return Err(format!("{} cannot be passed on", signals::name(number)));
        }
        numbers.push(number);
    }
    Ok(ForwardedSignals::Also(numbers))
}

fn signal_number(word: &str) -> Option<i32> {
    if word.bytes().all(|byte| byte.is_ascii_digit()) {
        return word.parse().ok().filter(|number| (1..=libc::SIGRTMAX()).contains(number));
    }
    let upper = word.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    name.parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

/// Where events go: a number is a descriptor.
pub(super) fn events(text: &OsStr) -> Result<EventsTo, String> {
    match text.to_str().and_then(|text| text.parse().ok()) {
        Some(number) => Ok(EventsTo::Descriptor(number)),
        None => path(text).map(EventsTo::File),
    }
}

/// What the failure of a rank means for the others.
pub(super) fn on_failure(text: &str) -> Result<OnFailure, String> {
    match text {
        "abort" => Ok(OnFailure::Abort),
        "continue" => Ok(OnFailure::Continue),
        _ => Err("it must be `abort` (the others are ended) or `continue` (they go on)".to_owned()),
    }
}

/// `NAME` or `NAME=VALUE`, any bytes.
pub(super) fn export(text: &OsStr) -> Result<Export, String> {
    let bytes = text.as_bytes();
    let (name, value) = match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
        None => (bytes, None),
    };
    if name.is_empty() {
        return Err("a variable's name is missing: write NAME or NAME=VALUE".to_owned());
    }
    let name = OsString::from_vec(name.to_vec());
    Ok(match value {
        Some(value) => Export::Set(name, OsString::from_vec(value.to_vec())),
        None => Export::Inherit(name),
    })
}

/// A number of slots of a host.
pub(super) fn slot_count(text: &str) -> Result<u32, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let count = text.parse().ok().filter(|count| digits && (1..=MAX_SLOTS).contains(count));
    count.ok_or_else(|| format!("it must be a number from 1 to {MAX_SLOTS}"))
}

/// Arguments, cut into words as a shell would.
pub(super) fn argument_words(text: &str) -> Result<Vec<OsString>, String> {
    let words = shell_words::split(text).map_err(|_| "a quote is not closed".to_owned())?;
    Ok(words.into_iter().map(OsString::from).collect())
}

/// A command line, cut into words as a shell would. Of several with `:` between, as mpirun takes them, the first.
pub(super) fn command_words(text: &str) -> Result<Vec<OsString>, String> {
    let mut words = shell_words::split(text).map_err(|_| "a quote is not closed".to_owned())?;
    words.truncate(words.iter().position(|word| word == ":").unwrap_or(words.len()));
    if words.first().is_none_or(String::is_empty) {
        return Err(
            "a command is needed, such as `ssh -p 2222` or a wrapper that takes HOST COMMAND".to_owned()
        );
    }
    Ok(words.into_iter().map(OsString::from).collect())
}

/// A folder, and behind it `:nojobid`, `:nocopy` or both.
pub(super) fn output_folder(text: &OsStr) -> Result<OutputFolder, String> {
    let bytes = text.as_bytes();
    let at = bytes.iter().position(|byte| *byte == b':').unwrap_or(bytes.len());
    let path = path(OsStr::from_bytes(&bytes[..at]))?;
    let mut folder = OutputFolder { path, by_job: true, copy: true };
    let words = bytes[at..].split(|byte| matches!(byte, b':' | b',')).filter(|word| !word.is_empty());
    for word in words {
        match word.to_ascii_lowercase().as_slice() {
            b"nojobid" => folder.by_job = false,
            b"nocopy" => folder.copy = false,
            b"jobid" | b"copy" => {}
            _ => return Err("behind the folder's `:` come `nojobid`, `nocopy` or both".to_owned()),
        }
    }
    Ok(folder)
}

/// Who reads standard input.
pub(super) fn stdin(text: &str) -> Result<StdinTo, String> {
    match text {
        "all" => Ok(StdinTo::All),
        "none" => Ok(StdinTo::None),
        number if !number.starts_with('+') => {
            let rank = number.parse().ok().filter(|rank| *rank < MAX_RANKS);
            rank.map(|rank| StdinTo::Rank(Rank(rank))).ok_or_else(|| STDIN_IS.to_owned())
        }
        _ => Err(STDIN_IS.to_owned()),
    }
}

const STDIN_IS: &str = "it must be one rank's number, `all` or `none`";

/// How far `--dry-run` goes.
pub(super) fn dry_run(text: &str) -> Result<DryRun, String> {
    match text {
        "online" => Ok(DryRun::Online),
        "offline" => Ok(DryRun::Offline),
        _ => Err("it must be `--dry-run` (asks the hosts) or `--dry-run=offline` (asks nobody)".to_owned()),
    }
}

/// A path that is not empty.
pub(super) fn path(text: &OsStr) -> Result<std::path::PathBuf, String> {
    if text.is_empty() { Err("a path is needed".to_owned()) } else { Ok(text.into()) }
}

/// Whoever waits longer for an end wants no end.
const LONGEST_GRACE: Duration = Duration::from_secs(3600);

/// Ten years: a deadline beyond it is a slip, and sums of times stay far from overflow.
const LONGEST_S: f64 = 10.0 * 366.0 * 24.0 * 3600.0;
