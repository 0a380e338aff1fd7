//! Running the launcher: a builder, the running job, and what came out.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::pidfd;
use crate::process::{Process, listening_port, wait_until_gone};
use crate::testbed::Testbed;

/// A command line of the launcher, not yet run.
///
/// Every process of the job that the launcher gives an environment carries a mark of its own, by `-x`.
#[derive(Debug)]
pub struct Job<'a> {
    launcher: PathBuf,
    testbed: Option<&'a Testbed>,
    host: &'static str,
    options: Vec<OsString>,
    command_line: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    stdin: Vec<u8>,
    folder: Option<PathBuf>,
    deadline: Duration,
    mark: String,
    is_beside_others: bool,
}

impl<'a> Job<'a> {
    /// Runs this launcher on this machine.
    pub fn here(launcher: &Path) -> Job<'a> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Job {
            launcher: launcher.to_owned(),
            testbed: None,
            host: HEAD,
            options: vec!["-x".into(), MARK.into()],
            command_line: Vec::new(),
            env: vec![(MARK.into(), mark.clone().into())],
            stdin: Vec::new(),
            folder: None,
            deadline: Duration::from_secs(30),
            mark,
            is_beside_others: false,
        }
    }

    /// Runs this launcher on the testbed's head.
    pub fn on(testbed: &'a Testbed, launcher: &Path) -> Job<'a> {
        Job { testbed: Some(testbed), ..Job::here(launcher) }
    }

    /// Runs this launcher on a host of the testbed, beside others that run elsewhere on it: only what carries the job's
    /// mark is its own.
    pub fn on_host(testbed: &'a Testbed, host: &'static str, launcher: &Path) -> Job<'a> {
        Job { testbed: Some(testbed), host, ..Job::here(launcher) }.beside_others()
    }

    /// Lets it run beside others on the testbed's hosts: only what carries the job's mark is its own.
    pub fn beside_others(self) -> Self {
        Job { is_beside_others: true, ..self }
    }

    /// The word before all options that chooses a dialect: `torchrun`.
    pub fn dialect(mut self, word: &str) -> Self {
        self.options.insert(0, word.into());
        self
    }

    /// Options of the launcher, in order.
    pub fn options<S: AsRef<OsStr>>(mut self, options: impl IntoIterator<Item = S>) -> Self {
        self.options.extend(options.into_iter().map(|option| option.as_ref().to_owned()));
        self
    }

    /// The program that ranks run, and its arguments.
    pub fn program<S: AsRef<OsStr>>(mut self, program: &Path, args: impl IntoIterator<Item = S>) -> Self {
        self.command_line = vec![program.into()];
        self.command_line.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// A variable of the launcher's own environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// What the launcher reads from its standard input.
    pub fn stdin(mut self, bytes: &[u8]) -> Self {
        self.stdin = bytes.to_owned();
        self
    }

    /// The folder that the launcher is started in; the test's own unless told.
    pub fn folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// After how long the test gives the job up; 30 s unless told.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs it to its end.
    ///
    /// # Panics
    ///
    /// When it has not ended at the deadline.
    pub fn run(self) -> Outcome {
        self.start().wait()
    }

    /// Starts it.
    pub fn start(self) -> Running<'a> {
        let mut command = match self.testbed {
            Some(testbed) => testbed.command(self.host, &self.launcher),
            None => Command::new(&self.launcher),
        };
        command
            .args(&self.options)
            .args(&self.command_line)
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        command.current_dir(self.folder.as_deref().unwrap_or(Path::new(".")));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let shown = shown(&self.launcher, self.options.iter().chain(&self.command_line));
        let started = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = Arc::new(Output::default());
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let stderr = child.stderr.take().expect("stderr is a pipe");
        let readers = vec![
            read_into(&output, stdout, |text| &mut text.stdout),
            read_into(&output, stderr, |text| &mut text.stderr),
        ];
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        // Beside the test: more than a pipe holds waits for its reader, who may also end without reading.
        std::thread::spawn(move || stdin.write_all(&self.stdin));
        Running {
            command: shown,
            child,
            output,
            readers,
            testbed: self.testbed.filter(|_| !self.is_beside_others),
            mark: self.mark,
            started,
            deadline: started + self.deadline,
        }
    }
}

/// A launcher that runs. Dropped, it is killed.
#[derive(Debug)]
pub struct Running<'a> {
    command: String,
    child: Child,
    output: Arc<Output>,
    readers: Vec<JoinHandle<()>>,
    testbed: Option<&'a Testbed>,
    mark: String,
    started: Instant,
    deadline: Instant,
}

impl Running<'_> {
    /// Waits until the launcher has written `text` to its standard output `times` times.
    ///
    /// # Panics
    ///
    /// When that has not happened at the job's deadline, or its output has ended.
    pub fn wait_for_output(&self, text: &str, times: usize) {
        self.wait_for(|written| &written.stdout, text, times);
    }

    /// Waits until the launcher has written `text` to its standard error.
    ///
    /// # Panics
    ///
    /// When that has not happened at the job's deadline, or its output has ended.
    pub fn wait_for_note(&self, text: &str) {
        self.wait_for(|written| &written.stderr, text, 1);
    }

    fn wait_for(&self, stream: fn(&Written) -> &Vec<u8>, text: &str, times: usize) {
        let mut written = self.output.written.lock().expect("no reader panics");
        loop {
            let found = count(stream(&written), text.as_bytes());
            if found >= times {
                return;
            }
            let remaining = self.deadline.saturating_duration_since(Instant::now());
            let ended = written.ended == self.readers.len();
            assert!(
                !remaining.is_zero() && !ended,
                "{}: `{text}` came {found} times instead of {times}, {}:\n{}",
                self.command,
                if ended { "then the output ended" } else { "then the deadline" },
                written.shown()
            );
            written = self.output.grown.wait_timeout(written, remaining).expect("no reader panics").0;
        }
    }

    /// Sends the launcher a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("the launcher runs");
    }

    /// Waits until the launcher listens on a TCP port.
    ///
    /// # Panics
    ///
    /// When it does not at the job's deadline.
    pub fn wait_for_port(&self) -> u16 {
        loop {
            if let Some(port) = listening_port(self.pid()) {
                return port;
            }
            let written = self.output.written.lock().expect("no reader panics");
            let is_late = Instant::now() > self.deadline || written.ended == self.readers.len();
            assert!(!is_late, "{}: does not listen:\n{}", self.command, written.shown());
            // The kernel tells nobody that a port was opened: look again, at once when something is written.
            drop(
                self.output.grown.wait_timeout(written, Duration::from_millis(5)).expect("no reader panics"),
            );
        }
    }

    /// The launcher's process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process ids fit")
    }

    /// The processes of a rank: those that carry the job's mark and the rank's number.
    pub fn rank(&self, rank: u32) -> Vec<Process> {
        let rank = rank.to_string();
        let is_rank =
            |process: &Process| process.has_env(MARK, &self.mark) && process.has_env("EFARUN_RANK", &rank);
        Process::all().into_iter().filter(is_rank).collect()
    }

    /// All processes of the job but the launcher: whatever carries its mark, and whatever runs on the testbed's hosts.
    pub fn processes(&self) -> Vec<Process> {
        processes_of(&self.mark, self.testbed)
            .into_iter()
            .filter(|process| process.pid != self.pid())
            .collect()
    }

    /// Says whether its output has ended.
    ///
    /// # Panics
    ///
    /// When it has not at the job's deadline.
    pub fn has_ended(&self) -> bool {
        let written = self.output.written.lock().expect("no reader panics");
        assert!(Instant::now() < self.deadline, "{}: still running:\n{}", self.command, written.shown());
        written.ended == self.readers.len()
    }

    /// Waits for the launcher's end.
    ///
    /// # Panics
    ///
    /// When it has not ended at the deadline; the job is killed then.
    pub fn wait(mut self) -> Outcome {
        let deadline = self.deadline;
        let end = pidfd::open(self.pid());
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("the launcher is our child") {
                break status;
            }
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                let shown = self.output.written.lock().expect("no reader panics").shown();
                panic!("{}: not ended after {:.1?}:\n{shown}", self.command, self.started.elapsed());
            }
            pidfd::wait_for_any(end.as_slice(), remaining);
        };
        let duration = self.started.elapsed();
        let left = self.left_behind(Duration::from_secs(5));
        for reader in self.readers.drain(..) {
            // Its pipe ends with the last process that holds it; whoever still does is in `left_behind`.
            if left.is_ok() {
                reader.join().expect("readers do not panic");
            }
        }
        let written = self.output.written.lock().expect("no reader panics");
        Outcome {
            command: self.command.clone(),
            status,
            stdout: written.stdout.clone(),
            stderr: written.stderr.clone(),
            duration,
            left_behind: left.err().unwrap_or_default(),
        }
    }

    /// Waits until no process of the job is left, the launcher included; says who is.
    fn left_behind(&self, within: Duration) -> Result<Duration, Vec<Process>> {
        wait_until_gone(within, || processes_of(&self.mark, self.testbed))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            // A failed test must not leave its ranks to the next one.
            for process in processes_of(&self.mark, self.testbed) {
                let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
            }
        }
    }
}

/// What a job left to look at.
#[derive(Debug)]
pub struct Outcome {
    /// What was run.
    pub command: String,
    /// How the launcher ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
    /// From start to end.
    pub duration: Duration,
    /// Processes of the job that were still there 5 s after the launcher's end.
    pub left_behind: Vec<Process>,
}

impl Outcome {
    /// Standard output as text.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Standard error without what is only said on a busy machine: how long hosts have been waited for, and that some were
    /// still on their way when another one failed.
    pub fn told(&self) -> String {
        let only_when_busy = |line: &&str| {
            line.contains(" hosts connected after ") || line.starts_with("error: given up because of that;")
        };
        let stderr = self.stderr();
        stderr.lines().filter(|line| !only_when_busy(line)).collect::<Vec<_>>().join("\n")
    }

    /// Asserts how the launcher ended, and that nothing of the job is left anywhere.
    #[track_caller]
    pub fn assert_code(&self, code: i32) -> &Self {
        assert_eq!(self.status.code(), Some(code), "{}", self.shown());
        self.assert_nothing_left()
    }

    /// Asserts that the launcher itself was ended by this signal, and that nothing of the job is left anywhere.
    #[track_caller]
    pub fn assert_killed(&self, signal: Signal) -> &Self {
        assert_eq!(self.status.signal(), Some(signal as i32), "{}", self.shown());
        self.assert_nothing_left()
    }

    /// Asserts that standard error has each of these texts.
    #[track_caller]
    pub fn assert_says(&self, texts: &[&str]) -> &Self {
        let stderr = self.stderr();
        for text in texts {
            assert!(stderr.contains(text), "stderr lacks `{text}`\n{}", self.shown());
        }
        self
    }

    #[track_caller]
    fn assert_nothing_left(&self) -> &Self {
        assert!(self.left_behind.is_empty(), "left behind: {:#?}\n{}", self.left_behind, self.shown());
        self
    }

    /// For messages of failed assertions.
    pub fn shown(&self) -> String {
        format!(
            "{}\n{} after {:.1?}\n--- stdout\n{}\n--- stderr\n{}",
            self.command,
            self.status,
            self.duration,
            tail(&self.stdout),
            tail(&self.stderr)
        )
    }
}

#[derive(Debug, Default)]
struct Output {
    written: Mutex<Written>,
    grown: Condvar,
}

#[derive(Debug, Default)]
struct Written {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    ended: usize,
}

impl Written {
    fn shown(&self) -> String {
        format!("--- stdout\n{}\n--- stderr\n{}", tail(&self.stdout), tail(&self.stderr))
    }
}

fn read_into(
    output: &Arc<Output>,
    mut pipe: impl Read + Send + 'static,
    stream: fn(&mut Written) -> &mut Vec<u8>,
) -> JoinHandle<()> {
    let output = Arc::clone(output);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let len = pipe.read(&mut buffer).unwrap_or(0);
            let mut written = output.written.lock().expect("no reader panics");
            stream(&mut written).extend_from_slice(&buffer[..len]);
            written.ended += usize::from(len == 0);
            output.grown.notify_all();
            if len == 0 {
                return;
            }
        }
    })
}

fn processes_of(mark: &str, testbed: Option<&Testbed>) -> Vec<Process> {
    let guests = testbed.map(Testbed::guests).unwrap_or_default();
    let is_ours = |process: &Process| {
        process.has_env(MARK, mark) || guests.iter().any(|guest| guest.pid == process.pid)
    };
    Process::all().into_iter().filter(is_ours).collect()
}

fn count(haystack: &[u8], needle: &[u8]) -> usize {
    haystack.windows(needle.len()).filter(|window| *window == needle).count()
}

fn shown<'a>(launcher: &Path, args: impl Iterator<Item = &'a OsString>) -> String {
    let args: Vec<_> = args.map(|arg| arg.to_string_lossy()).collect();
    format!("{} {}", launcher.display(), args.join(" "))
}

/// The end of a long output, as text.
fn tail(bytes: &[u8]) -> String {
    let start = bytes.len().saturating_sub(SHOWN_BYTES);
    let cut = if start > 0 { format!("… {start} bytes …\n") } else { String::new() };
    cut + &String::from_utf8_lossy(&bytes[start..])
}

/// The testbed's name for where the launcher runs unless told.
const HEAD: &str = "head";

/// The variable that marks processes of a job.
const MARK: &str = "EFARUN_TEST_MARK";

const SHOWN_BYTES: usize = 8 << 10;
