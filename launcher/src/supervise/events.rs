//! `--events`: what happens to a job, as it happens, a JSON object per line.
//!
//! [`EventLog`] is told by whoever sees a thing happen; a thread of its own writes, so that a reader that is slow holds
//! up nothing. Each line has `event`, its name, and `t_ms`, milliseconds since the launcher began the job; the first one
//! has the `schema`, the job's id and the time of day. docs/events.md describes every event. Keys and events are only
//! ever added within a schema's number.
//!
//! It keeps whatever a slow reader has not taken; there are a few events per rank.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::job::EventsTo;

/// The first line's `schema`.
pub const SCHEMA: &str = "efarun-events/1";

/// Where events go; nowhere, unless asked for.
#[derive(Debug)]
pub struct EventLog {
    started: Instant,
    /// Of a job that may be started again: which start it is.
    attempt: Option<u32>,
    out: Option<(Sender<Value>, JoinHandle<io::Result<()>>)>,
}

impl EventLog {
    /// Opens what events go to. A file is emptied, unless this is another attempt at the same job; a descriptor is one that
    /// this process was started with. A job that may be started again has the number of the attempt in every event.
    ///
    /// # Errors
    ///
    /// When it cannot be opened for writing.
    pub fn open(to: Option<&EventsTo>, attempt: Option<u32>) -> io::Result<EventLog> {
        let started = Instant::now();
        let Some(to) = to else { return Ok(EventLog { started, attempt, out: None }) };
        let mut file = match to {
            EventsTo::File(path) if attempt.is_some_and(|number| number > 0) => {
                OpenOptions::new().append(true).open(path)?
            }
            EventsTo::File(path) => File::create(path)?,
            EventsTo::Descriptor(number) => inherited(*number)?,
        };
        let (sender, lines) = mpsc::channel::<Value>();
        let write = move || lines.iter().try_for_each(|line| file.write_all(format!("{line}\n").as_bytes()));
        let thread = std::thread::Builder::new().name("events".into()).spawn(write)?;
        Ok(EventLog { started, attempt, out: Some((sender, thread)) })
    }

    /// Tells of an event. `fields` is an object.
    pub fn tell(&self, event: &str, fields: Value) {
        let Some((sender, _)) = &self.out else { return };
        let mut line = json!({ "event": event, "t_ms": self.elapsed_ms() });
        if let (Value::Object(line), Some(number)) = (&mut line, self.attempt) {
            line.insert("attempt".to_owned(), number.into());
        }
        if let (Value::Object(line), Value::Object(fields)) = (&mut line, fields) {
            line.extend(fields);
        }
        // The thread is gone when nobody reads any more; that is told at the end.
        let _ = sender.send(line);
    }

    /// Since the launcher began the job.
    pub fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Writes what is left; waits `patience` for a reader that is slow.
    ///
    /// # Errors
    ///
    /// When something could not be written.
    pub fn finish(self, patience: Duration) -> io::Result<()> {
        let Some((sender, thread)) = self.out else { return Ok(()) };
        drop(sender);
        let deadline = Instant::now() + patience;
        while !thread.is_finished() {
            if Instant::now() >= deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "its reader does not read"));
            }
            std::thread::sleep(JOIN_INTERVAL);
        }
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that writes panicked")))
    }
}

/// Opens a descriptor that this process has once more, so that nobody else's is closed.
fn inherited(number: u32) -> io::Result<File> {
    OpenOptions::new().append(true).open(Path::new("/proc/self/fd").join(number.to_string()))
}

/// How often to look whether the thread is done.
const JOIN_INTERVAL: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<Value> {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn events_are_lines_with_a_name_and_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        std::fs::write(&path, "left from before").unwrap();
        let log = EventLog::open(Some(&EventsTo::File(path.clone())), None).unwrap();
        log.tell("start", json!({ "schema": SCHEMA }));
        log.tell("end", json!({ "code": 0 }));
        log.finish(Duration::from_secs(10)).unwrap();
        let lines = lines(&std::fs::read_to_string(&path).unwrap());
        assert_eq!((&lines[0]["event"], &lines[0]["schema"]), (&json!("start"), &json!(SCHEMA)));
        assert!(lines[1]["t_ms"].as_u64() >= lines[0]["t_ms"].as_u64() && lines.len() == 2, "{lines:?}");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_an_error_at_once() {
        assert!(EventLog::open(Some(&EventsTo::File("/no/such/folder/events".into())), None).is_err());
        assert!(EventLog::open(Some(&EventsTo::Descriptor(987_654)), None).is_err());
    }

    #[test]
    fn a_full_disk_is_told_at_the_end() {
        let log = EventLog::open(Some(&EventsTo::File("/dev/full".into())), None).unwrap();
        log.tell("start", json!({}));
        assert!(log.finish(Duration::from_secs(10)).is_err());
    }
}
