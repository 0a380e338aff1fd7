//! A device and its links.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::MsgFlags;

use super::ProcessMemory;
use super::doors::Doors;
use super::poller::{Poller, Role, Token};
use crate::abi;
use crate::address::{Endpoint, Gid, Qpn};
use crate::fault::{Faults, Moment};
use crate::ledger::Ledger;
use crate::manners::Choices;
use crate::medium::{Hello, Link, LocalLink, Received, TcpLink};
use crate::nic::{Action, Character, LinkId, Loss, Nic, QueueId};
use crate::report;
use crate::settings::Settings;

/// A device of this process.
#[derive(Debug)]
pub struct Device {
    number: u8,
    ledger: Ledger,
    nic: Nic,
    doors: Doors,
    links: HashMap<LinkId, Link>,
    /// Links that could not be opened yet because too many wait at the door.
    patient: Vec<(LinkId, Endpoint)>,
    channels: HashMap<QueueId, Channel>,
    listeners: HashMap<u64, OwnedFd>,
    poller: Arc<Poller>,
    fabric: String,
    first_port: u16,
    shares_memory: bool,
    opened: Instant,
    last_fault_check: Instant,
    is_lost: bool,
}

/// What happens to a device and is no completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Event {
    /// The device is gone.
    DeviceFatal = abi::IBV_EVENT_DEVICE_FATAL,
    /// Its port is up again.
    PortActive = abi::IBV_EVENT_PORT_ACTIVE,
    /// Its port is down.
    PortError = abi::IBV_EVENT_PORT_ERR,
}

/// Where a completion queue's events go.
#[derive(Debug)]
pub struct Channel {
    /// The end that is written to.
    pub writer: Arc<OwnedFd>,
    /// What the reader is told.
    pub token: u64,
}

impl Device {
    pub(super) fn new(
        settings: &Settings,
        gid: Gid,
        number: u8,
        poller: &Arc<Poller>,
        ledger: Ledger,
        now: Instant,
    ) -> Device {
        let host = gid.parts().map_or(std::net::Ipv4Addr::LOCALHOST, |(host, _)| host);
        let character = Character {
            gid,
            capabilities: settings.profile.capabilities,
            limits: Faults::limits(&settings.faults, settings.profile.limits),
            manners: settings.manners,
            faults: Faults::of_device(&settings.faults, number),
            choices: Choices::new(settings.seed ^ u64::from_be_bytes(gid.guid())),
            timeout: settings.timeout,
        };
        Device {
            number,
            nic: Nic::new(character, ledger.counters()),
            ledger,
            doors: Doors::new(settings, gid, host, number, poller),
            links: HashMap::new(),
            patient: Vec::new(),
            channels: HashMap::new(),
            listeners: HashMap::new(),
            poller: poller.clone(),
            fabric: settings.fabric.clone(),
            first_port: settings.first_port,
            shares_memory: settings.shares_memory,
            opened: now,
            last_fault_check: now,
            is_lost: false,
        }
    }

    /// What decides.
    pub fn nic(&mut self) -> &mut Nic {
        &mut self.nic
    }

    /// Whether the device is gone.
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Takes a number for a queue pair that nobody on this host has; none when the device has no more.
    pub fn open_door(&mut self) -> Option<Qpn> {
        let numbers = self.nic.limits().queue_pairs;
        self.doors.open(numbers)
    }

    /// Gives a queue pair's number back, after its last words.
    pub fn shut_door(&mut self, now: Instant, qpn: Qpn) {
        self.push_out(now);
        self.doors.shut(qpn);
        // Nobody may be there to do it later.
        self.ledger.show(now);
    }

    /// Sends a completion queue's events to a channel.
    pub fn set_channel(&mut self, queue: QueueId, channel: Channel) {
        self.channels.insert(queue, channel);
    }

    /// Sends them nowhere.
    pub fn remove_channel(&mut self, queue: QueueId) {
        self.channels.remove(&queue);
    }

    /// Raises an event.
    pub fn raise(&mut self, queue: QueueId) {
        if let Some(channel) = self.channels.get(&queue) {
            tell(&channel.writer, &channel.token.to_ne_bytes());
        }
    }

    /// Tells of what happens to the device through `writer`, until that is forgotten by its number.
    pub fn add_listener(&mut self, number: u64, writer: OwnedFd) {
        self.listeners.insert(number, writer);
    }

    /// Tells it nothing more.
    pub fn remove_listener(&mut self, number: u64) {
        self.listeners.remove(&number);
    }

    fn announce(&self, event: Event) {
        for writer in self.listeners.values() {
            tell(writer, &(event as u32).to_ne_bytes());
        }
    }

    /// Hands on what is to go out.
    pub(super) fn push_out(&mut self, now: Instant) {
        self.act(now);
        let busy: Vec<LinkId> = self.nic.busy_links().collect();
        for id in busy {
            let Some(link) = self.links.get_mut(&id) else { continue };
            if self.nic.pull(now, id, link.outlet(), &ProcessMemory) {
                link.flush();
            }
            self.watch_for_room(id);
        }
        self.act(now);
    }

    /// Does what there is to do without waiting, and says whether anything came in. Sockets are looked at elsewhere.
    pub(super) fn progress(&mut self, now: Instant) -> bool {
        let mut came_in = false;
        self.check_faults(now);
        self.ledger.tick(now);
        let local: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| matches!(link, Link::Local(_))).map(|(id, _)| *id).collect();
        for id in local {
            came_in |= self.receive(now, id);
        }
        self.nic.tick(now, &ProcessMemory);
        self.push_out(now);
        came_in
    }

    /// Brings the files that show counters up to date.
    pub(super) fn show_counters(&mut self, now: Instant) {
        self.ledger.show(now);
    }

    /// Looks at a socket that has something.
    pub(super) fn look(&mut self, now: Instant, token: Token) {
        match token.role() {
            Role::Door => self.doors.let_in(Qpn(token.number() as u32)),
            Role::Greeting => {
                if let Some((hello, link)) = self.doors.hear(token.number()) {
                    let id = self.nic.accept_link(now, hello.from);
                    report::whisper(|| format!("{} opens {id:?} to {}", hello.from, hello.to));
                    self.add_link(id, link);
                }
            }
            Role::Link => self.look_at_link(now, LinkId(token.number())),
        }
    }

    /// When there is next something to do by the clock.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let faults = self.has_pending_faults().then(|| self.last_fault_check + FAULT_INTERVAL);
        let patient = (!self.patient.is_empty()).then(|| self.last_fault_check + FAULT_INTERVAL);
        self.nic.next_due().into_iter().chain(faults).chain(patient).chain(self.ledger.next_due()).min()
    }

    /// Prepares for sleep; false when there is something to receive.
    pub(super) fn fall_asleep(&mut self) -> bool {
        let mut may_sleep = true;
        for link in self.links.values() {
            if let Link::Local(link) = link {
                may_sleep &= link.fall_asleep();
            }
        }
        may_sleep
    }

    fn look_at_link(&mut self, now: Instant, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if let Link::Tcp(tcp) = link {
            match tcp.check() {
                Ok(_) => {
                    link.flush();
                    self.watch_for_room(id);
                }
                Err(error) => {
                    report::whisper(|| format!("{id:?}: {error}"));
                    return match error.kind() {
                        ErrorKind::ConnectionRefused => self.lose(now, id, Loss::Refused),
                        // The network may come back; the deadline of what waits decides.
                        _ => self.retry_later(id),
                    };
                }
            }
            self.receive(now, id);
            return;
        }
        if !link.look() {
            self.receive(now, id);
        }
    }

    fn receive(&mut self, now: Instant, id: LinkId) -> bool {
        let Some(link) = self.links.get_mut(&id) else { return false };
        let nic = &mut self.nic;
        let received = link.receive(FRAMES_AT_ONCE, &mut |frame, payload| {
            nic.arrive(now, id, frame, payload, &ProcessMemory)
        });
        if matches!(received, Received::End(_)) {
            self.lose(now, id, Loss::Broken);
        }
        !matches!(received, Received::Frames(0))
    }

    fn act(&mut self, now: Instant) {
        // Giving up a link may raise events.
        for _ in 0..ROUNDS {
            let actions = self.nic.take_actions();
            if actions.is_empty() {
                return;
            }
            for action in actions {
                match action {
                    Action::Connect(id, target) => self.connect(now, id, target),
                    Action::Close(id) => self.close(id),
                    Action::Event(queue) => self.raise(queue),
                }
            }
        }
    }

    fn connect(&mut self, now: Instant, id: LinkId, target: Endpoint) {
        let hello = Hello { fabric: self.fabric.clone(), from: self.nic.gid(), to: target };
        let local =
            if self.shares_memory { LocalLink::open(&hello) } else { Err(ErrorKind::Unsupported.into()) };
        let is_same_host =
            target.gid.parts().map(|(host, _)| host) == self.nic.gid().parts().map(|(host, _)| host);
        let link = match local {
            Ok(link) => Ok(Link::Local(link)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return self.patient.push((id, target)),
            Err(error) if is_same_host && self.shares_memory => Err(error),
            Err(_) => TcpLink::open(&hello, self.first_port).map(Link::Tcp),
        };
        report::whisper(|| match &link {
            Ok(Link::Local(_)) => format!("{id:?} to {target} by shared memory"),
            Ok(Link::Tcp(_)) => format!("{id:?} to {target} by TCP"),
            Err(error) => format!("{id:?} to {target}: {error}"),
        });
        match link {
            Ok(link) => self.add_link(id, link),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => self.lose(now, id, Loss::Refused),
            Err(_) => self.patient.push((id, target)),
        }
    }

    fn add_link(&mut self, id: LinkId, link: Link) {
        let token = Token::new(self.number.into(), Role::Link, id.0);
        if let Err(error) = self.poller.watch(link.as_fd(), token) {
            report::say(&format!("a link cannot be watched: {error}"));
        }
        self.links.insert(id, link);
        self.watch_for_room(id);
    }

    /// A connection failed that may succeed later.
    fn retry_later(&mut self, id: LinkId) {
        self.close(id);
        if let Some(target) = self.nic.route_of(id) {
            self.patient.push((id, target));
        }
    }

    fn lose(&mut self, now: Instant, id: LinkId, loss: Loss) {
        report::whisper(|| format!("{id:?} ends: {loss:?}"));
        self.close(id);
        self.nic.lose_link(now, id, loss, &ProcessMemory);
    }

    fn close(&mut self, id: LinkId) {
        self.patient.retain(|(patient, _)| *patient != id);
        if let Some(link) = self.links.remove(&id) {
            self.poller.forget(link.as_fd());
        }
    }

    fn watch_for_room(&mut self, id: LinkId) {
        if let Some(Link::Tcp(link)) = self.links.get_mut(&id)
            && let Some(is_waiting) = link.waiting_changed()
        {
            let token = Token::new(self.number.into(), Role::Link, id.0);
            self.poller.watch_for_room(link.as_fd(), token, is_waiting);
        }
    }

    fn has_pending_faults(&self) -> bool {
        !self.is_lost && self.nic.has_faults()
    }

    /// Every few milliseconds: faults that begin or end, and doors that had no room.
    fn check_faults(&mut self, now: Instant) {
        if now.saturating_duration_since(self.last_fault_check) < FAULT_INTERVAL {
            return;
        }
        self.last_fault_check = now;
        for (id, target) in std::mem::take(&mut self.patient) {
            self.connect(now, id, target);
        }
        if !self.has_pending_faults() {
            return;
        }
        let operations = self.nic.posted();
        let moment = Moment { age: now - self.opened, operations, exists: &|path| path.exists() };
        self.nic.faults().refresh(&moment);
        let is_down = self.nic.faults().is_link_down();
        if self.ledger.show_state(is_down) {
            self.announce(if is_down { Event::PortError } else { Event::PortActive });
        }
        if self.nic.faults().is_device_lost() {
            self.is_lost = true;
            report::say(&format!("device {} is lost", self.number));
            self.nic.lose_device(now);
            self.announce(Event::DeviceFatal);
        }
    }
}

/// Writes to a socket that a program reads events from. One that is full has an event to be read already.
fn tell(writer: &OwnedFd, bytes: &[u8]) {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let _ = nix::sys::socket::send(writer.as_raw_fd(), bytes, flags);
}

/// So that one link cannot keep the others waiting.
const FRAMES_AT_ONCE: usize = 64;
const ROUNDS: usize = 8;
const FAULT_INTERVAL: Duration = Duration::from_millis(5);
