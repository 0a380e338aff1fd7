//! Faults: what breaks, where, and from when on.
//!
//! Written as `KIND[@WHEN]`, separated by commas:
//!
//! | kind | meaning |
//! |---|---|
//! | `device-lost[=N]` | device N (or all) is gone: whatever is posted to it is flushed |
//! | `link-down[=N]` | nothing leaves or reaches device N, and its port is down |
//! | `silence=FROM>TO` | nothing from host FROM reaches host TO, as a security group does; a host is an address or `*` |
//! | `fail=CODE[:KIND][:PERCENT]` | PERCENT (100) of operations of a KIND (send, read, write; all) end with EFA's CODE |
//! | `queue-full=PERCENT` | send queues claim to be full that often |
//! | `no-gpudirect` | memory of CUDA devices is refused, as on a host without the kernel modules for it |
//! | `limit=NAME:COUNT` | a profile's limit is lower: queue-pairs, completion-queues, entries, domains, regions, region-bytes, writable-pages, handles, send-queue, receive-queue |
//!
//! | when | meaning |
//! |---|---|
//! | nothing | always |
//! | `@500ms`, `@3s` | from so long after the device was opened |
//! | `@1000ops` | from that many posted operations on |
//! | `@/a/path` | while that file exists |
//!
//! A limit holds always.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::manners::{Chance, Choices};
use crate::nic::Operation;
use crate::profile::Limits;
use crate::status::Status;

/// A fault, and when it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What breaks.
    pub kind: Kind,
    /// From when on.
    pub when: When,
}

/// What breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A device is gone; none is all of them.
    DeviceLost(Option<u8>),
    /// A device's cable is out.
    LinkDown(Option<u8>),
    /// One host is not heard by another; none is any.
    Silence {
        /// Who is not heard.
        from: Option<Ipv4Addr>,
        /// By whom.
        to: Option<Ipv4Addr>,
    },
    /// Operations end with a code.
    Fail {
        /// The code.
        status: Status,
        /// Which operations; none is all of them.
        only: Option<OperationKind>,
        /// How many.
        chance: Chance,
        /// On which device; none is all of them.
        device: Option<u8>,
    },
    /// Send queues claim to be full.
    QueueFull(Chance),
    /// Memory of CUDA devices is refused.
    NoGpuDirect,
    /// A limit is lower.
    Limit(Limit, u64),
}

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the operations' names")]
pub enum OperationKind {
    Send,
    Read,
    Write,
}

/// A limit of the profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of Limits")]
pub enum Limit {
    QueuePairs,
    CompletionQueues,
    Entries,
    Domains,
    Regions,
    RegionBytes,
    WritablePages,
    Handles,
    SendQueue,
    ReceiveQueue,
}

/// From when on a fault is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// From the beginning.
    Always,
    /// So long after the device was opened.
    After(Duration),
    /// After so many posted operations.
    Operations(u64),
    /// While a file exists.
    File(PathBuf),
}

/// What is wrong with a text for faults.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// There is no such fault.
    #[error(
        "`{0}` is no fault: there are device-lost, link-down, silence=FROM>TO, fail=CODE, queue-full=PERCENT, no-gpudirect, limit=NAME:COUNT"
    )]
    Kind(String),
    /// Its beginning cannot be read.
    #[error(
        "`{0}` begins neither at a time (@500ms, @3s), nor at a number of operations (@1000ops), nor with a file (@/path)"
    )]
    When(String),
    /// What it is to do cannot be read.
    #[error("`{0}` is not written as {1}")]
    Argument(String, &'static str),
}

impl Fault {
    /// Reads the text form.
    ///
    /// # Errors
    ///
    /// [`FaultError`], naming the word at fault.
    pub fn parse(text: &str) -> Result<Vec<Fault>, FaultError> {
        text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(Fault::parse_one).collect()
    }

    fn parse_one(word: &str) -> Result<Fault, FaultError> {
        let (kind, when) = match word.split_once('@') {
            Some((kind, when)) => (kind, When::parse(when).ok_or_else(|| FaultError::When(word.to_owned()))?),
            None => (word, When::Always),
        };
        let (name, argument) = match kind.split_once('=') {
            Some((name, argument)) => (name, Some(argument)),
            None => (kind, None),
        };
        let form = match name {
            "device-lost" | "link-down" => "device-lost[=NUMBER], link-down[=NUMBER]",
            "silence" => "silence=FROM>TO, with an IPv4 address or * for each",
            "fail" => "fail=CODE[:send|read|write][:PERCENT][:nicNUMBER], with a code from 1 to 15",
            "queue-full" => "queue-full=PERCENT",
            "no-gpudirect" => "no-gpudirect",
            "limit" => {
                "limit=NAME:COUNT, NAME being queue-pairs, completion-queues, entries, domains, regions, \
                 region-bytes, writable-pages, handles, send-queue or receive-queue"
            }
            _ => return Err(FaultError::Kind(word.to_owned())),
        };
        let kind = Kind::parse(name, argument).ok_or_else(|| FaultError::Argument(word.to_owned(), form))?;
        Ok(Fault { kind, when })
    }
}

impl Kind {
    fn parse(name: &str, argument: Option<&str>) -> Option<Kind> {
        match (name, argument) {
            ("device-lost", None) => Some(Kind::DeviceLost(None)),
            ("link-down", None) => Some(Kind::LinkDown(None)),
            ("device-lost", Some(device)) => Some(Kind::DeviceLost(Some(device.parse().ok()?))),
            ("link-down", Some(device)) => Some(Kind::LinkDown(Some(device.parse().ok()?))),
            ("silence", Some(hosts)) => {
                let (from, to) = hosts.split_once('>')?;
                let host = |text: &str| if text == "*" { Some(None) } else { text.parse().ok().map(Some) };
                Some(Kind::Silence { from: host(from)?, to: host(to)? })
            }
            ("fail", Some(words)) => Kind::parse_fail(words),
            ("no-gpudirect", None) => Some(Kind::NoGpuDirect),
            ("queue-full", Some(percent)) => Some(Kind::QueueFull(chance(percent)?)),
            ("limit", Some(words)) => {
                let (name, count) = words.split_once(':')?;
                Some(Kind::Limit(Limit::named(name)?, count.parse().ok()?))
            }
            _ => None,
        }
    }

    fn parse_fail(words: &str) -> Option<Kind> {
        let mut words = words.split(':');
        let status = Status::from_code(words.next()?.parse().ok()?).filter(|status| *status != Status::Ok)?;
        let (mut only, mut how_often, mut device) = (None, chance("100")?, None);
        for word in words {
            if let Some(number) = word.strip_prefix("nic") {
                device = Some(number.parse().ok()?);
                continue;
            }
            match word {
                "send" => only = Some(OperationKind::Send),
                "read" => only = Some(OperationKind::Read),
                "write" => only = Some(OperationKind::Write),
                percent => how_often = chance(percent)?,
            }
        }
        Some(Kind::Fail { status, only, chance: how_often, device })
    }
}

impl Limit {
    fn named(name: &str) -> Option<Limit> {
        Some(match name {
            "queue-pairs" => Limit::QueuePairs,
            "completion-queues" => Limit::CompletionQueues,
            "entries" => Limit::Entries,
            "domains" => Limit::Domains,
            "regions" => Limit::Regions,
            "region-bytes" => Limit::RegionBytes,
            "writable-pages" => Limit::WritablePages,
            "handles" => Limit::Handles,
            "send-queue" => Limit::SendQueue,
            "receive-queue" => Limit::ReceiveQueue,
            _ => return None,
        })
    }

    fn lower(self, limits: &mut Limits, count: u64) {
        let small = u32::try_from(count).unwrap_or(u32::MAX);
        let cut = |limit: &mut u32| *limit = small.min(*limit);
        match self {
            Limit::QueuePairs => cut(&mut limits.queue_pairs),
            Limit::CompletionQueues => cut(&mut limits.completion_queues),
            Limit::Entries => cut(&mut limits.completion_queue_entries),
            Limit::Domains => cut(&mut limits.protection_domains),
            Limit::Regions => cut(&mut limits.regions),
            Limit::RegionBytes => limits.region_bytes = count.min(limits.region_bytes),
            Limit::WritablePages => limits.writable_region_pages = count.min(limits.writable_region_pages),
            Limit::Handles => cut(&mut limits.address_handles),
            Limit::SendQueue => cut(&mut limits.send_queue),
            Limit::ReceiveQueue => cut(&mut limits.receive_queue),
        }
    }
}

impl When {
    fn parse(text: &str) -> Option<When> {
        if text.starts_with('/') {
            return Some(When::File(text.into()));
        }
        let number = |digits: &str| digits.parse().ok();
        if let Some(digits) = text.strip_suffix("ops") {
            return number(digits).map(When::Operations);
        }
        if let Some(digits) = text.strip_suffix("ms") {
            return number(digits).map(|ms| When::After(Duration::from_millis(ms)));
        }
        number(text.strip_suffix('s')?).map(|s| When::After(Duration::from_secs(s)))
    }

    fn is_now(&self, moment: &Moment<'_>) -> bool {
        match self {
            When::Always => true,
            When::After(delay) => moment.age >= *delay,
            When::Operations(count) => moment.operations >= *count,
            When::File(path) => (moment.exists)(path),
        }
    }
}

fn chance(percent: &str) -> Option<Chance> {
    let percent = percent.parse().ok().filter(|percent| *percent <= 100)?;
    Some(Chance { percent, delay: Duration::ZERO })
}

/// What the beginning of a fault is compared with.
pub struct Moment<'a> {
    /// How long the device has been open.
    pub age: Duration,
    /// How many operations were posted to it.
    pub operations: u64,
    /// Whether a file exists.
    pub exists: &'a dyn Fn(&Path) -> bool,
}

/// The faults of one device, and which of them are there now.
#[derive(Debug, Default)]
pub struct Faults {
    faults: Vec<(Fault, bool)>,
}

impl Faults {
    /// The faults that concern a device.
    pub fn of_device(all: &[Fault], device: u8) -> Faults {
        let concerns = |fault: &&Fault| match fault.kind {
            Kind::DeviceLost(only) | Kind::LinkDown(only) | Kind::Fail { device: only, .. } => {
                only.is_none_or(|only| only == device)
            }
            Kind::Limit(..) => false,
            _ => true,
        };
        let faults = all.iter().filter(concerns).map(|fault| (fault.clone(), fault.when == When::Always));
        Faults { faults: faults.collect() }
    }

    /// The limits that remain.
    pub fn limits(all: &[Fault], mut limits: Limits) -> Limits {
        for fault in all {
            if let Kind::Limit(limit, count) = fault.kind {
                limit.lower(&mut limits, count);
            }
        }
        limits
    }

    /// Whether there is any, ever.
    pub fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// Brings the faults up to the moment.
    pub fn refresh(&mut self, moment: &Moment<'_>) {
        for (fault, active) in &mut self.faults {
            *active = fault.when.is_now(moment);
        }
    }

    /// Whether the device is gone.
    pub fn is_device_lost(&self) -> bool {
        self.active().any(|kind| matches!(kind, Kind::DeviceLost(_)))
    }

    /// Whether memory of CUDA devices is refused.
    pub fn refuses_cuda(&self) -> bool {
        self.active().any(|kind| matches!(kind, Kind::NoGpuDirect))
    }

    /// Whether the cable is out.
    pub fn is_link_down(&self) -> bool {
        self.active().any(|kind| matches!(kind, Kind::LinkDown(_)))
    }

    /// Whether nothing of one host reaches the other.
    pub fn is_silent(&self, from: Option<Ipv4Addr>, to: Option<Ipv4Addr>) -> bool {
        self.active().any(|kind| match kind {
            Kind::LinkDown(_) => true,
            Kind::Silence { from: f, to: t } => (f.is_none() || *f == from) && (t.is_none() || *t == to),
            _ => false,
        })
    }

    /// The code that an operation is to end with, whatever happens to it.
    pub fn verdict(&self, operation: Operation, choices: &mut Choices) -> Option<Status> {
        let kind = match operation {
            Operation::Send => OperationKind::Send,
            Operation::Read { .. } => OperationKind::Read,
            Operation::Write { .. } => OperationKind::Write,
        };
        self.active().find_map(|fault| match fault {
            Kind::Fail { status, only, chance, .. } if only.is_none_or(|only| only == kind) => {
                choices.happens(*chance).then_some(*status)
            }
            _ => None,
        })
    }

    /// Whether a send queue claims to be full this time.
    pub fn is_queue_full(&self, choices: &mut Choices) -> bool {
        self.active().any(|kind| matches!(kind, Kind::QueueFull(chance) if choices.happens(*chance)))
    }

    fn active(&self) -> impl Iterator<Item = &Kind> {
        self.faults.iter().filter(|(_, active)| *active).map(|(fault, _)| &fault.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::P5;

    fn faults(text: &str) -> Faults {
        Faults::of_device(&Fault::parse(text).unwrap(), 1)
    }

    fn at(faults: &mut Faults, age_ms: u64, operations: u64, file: bool) {
        faults.refresh(&Moment { age: Duration::from_millis(age_ms), operations, exists: &|_| file });
    }

    #[test]
    fn faults_begin_when_they_say() {
        let mut lost = faults("device-lost=1@500ms");
        assert!(!lost.is_device_lost());
        at(&mut lost, 499, 0, true);
        assert!(!lost.is_device_lost());
        at(&mut lost, 500, 0, false);
        assert!(lost.is_device_lost());
        let mut down = faults("link-down@10ops");
        at(&mut down, 9000, 9, true);
        assert!(!down.is_link_down());
        at(&mut down, 0, 10, false);
        assert!(down.is_link_down());
        let mut file = faults("link-down@/some/file");
        at(&mut file, 0, 0, true);
        assert!(file.is_link_down());
        at(&mut file, 0, 0, false);
        assert!(!file.is_link_down());
    }

    #[test]
    fn other_devices_are_spared() {
        assert!(faults("device-lost=0,link-down=2,fail=13:send:nic0").is_empty());
        assert!(!faults("fail=13:send:nic1").is_empty());
        assert!(faults("device-lost").is_device_lost());
    }

    #[test]
    fn silence_is_one_way() {
        let (a, b) = (Some(Ipv4Addr::new(10, 0, 0, 1)), Some(Ipv4Addr::new(10, 0, 0, 2)));
        let silence = faults("silence=10.0.0.1>10.0.0.2");
        assert!(silence.is_silent(a, b) && !silence.is_silent(b, a));
        assert!(faults("silence=*>10.0.0.2").is_silent(a, b));
        assert!(!faults("silence=*>10.0.0.2").is_silent(b, a));
    }

    #[test]
    fn verdicts_hit_the_kind_they_name() {
        let mut choices = Choices::new(1);
        let read = Operation::Read { remote_key: 0, address: 0 };
        let fail = faults("fail=13:read");
        assert_eq!(fail.verdict(read, &mut choices), Some(Status::Unresponsive));
        assert_eq!(fail.verdict(Operation::Send, &mut choices), None);
        let half = faults("fail=7:50");
        let hits = (0..1000).filter(|_| half.verdict(Operation::Send, &mut choices).is_some()).count();
        assert!((400..600).contains(&hits), "{hits}");
    }

    #[test]
    fn limits_are_lowered_never_raised() {
        let all = Fault::parse("limit=handles:3,limit=regions:99999999").unwrap();
        let limits = Faults::limits(&all, P5.limits);
        assert_eq!((limits.address_handles, limits.regions), (3, P5.limits.regions));
    }

    #[test]
    fn faults_of_writing_are_named() {
        for text in [
            "device-gone",
            "device-lost=x",
            "link-down@soon",
            "silence=1.2.3.4",
            "fail=0",
            "fail=16",
            "fail=3:copy",
            "fail=3:nic",
            "queue-full=101",
            "no-gpudirect=1",
            "limit=cats:3",
        ] {
            let error = Fault::parse(&format!("link-down,{text}")).unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }
}
