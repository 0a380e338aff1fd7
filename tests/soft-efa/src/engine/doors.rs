//! The doors of a device's queue pairs, and who stands before them.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::poller::{Poller, Role, Token};
use crate::address::{Endpoint, Gid, Qpn};
use crate::medium::{Greeted, Hello, Link, LocalDoor, LocalGreeting, TcpDoor, TcpGreeting};

/// All doors of a device.
#[derive(Debug)]
pub(super) struct Doors {
    device: u8,
    gid: Gid,
    host: Ipv4Addr,
    fabric: String,
    first_port: u16,
    shares_memory: bool,
    poller: Arc<Poller>,
    doors: HashMap<Qpn, Door>,
    greetings: HashMap<u64, Greeting>,
    next_greeting: u64,
}

#[derive(Debug)]
struct Door {
    local: LocalDoor,
    tcp: Option<TcpDoor>,
}

#[derive(Debug)]
enum Greeting {
    Local(LocalGreeting),
    Tcp(TcpGreeting),
}

impl Doors {
    pub(super) fn new(
        settings: &crate::settings::Settings,
        gid: Gid,
        host: Ipv4Addr,
        device: u8,
        poller: &Arc<Poller>,
    ) -> Doors {
        Doors {
            device,
            gid,
            host,
            fabric: settings.fabric.clone(),
            first_port: settings.first_port,
            shares_memory: settings.shares_memory,
            poller: poller.clone(),
            doors: HashMap::new(),
            greetings: HashMap::new(),
            next_greeting: 0,
        }
    }

    /// Takes a number that nobody on this host has; none when all of them are taken.
    pub(super) fn open(&mut self, numbers: u32) -> Option<Qpn> {
        // From anywhere, so that the number of a queue pair that was closed is not soon somebody else's.
        let start = fastrand::u32(0..numbers.max(1));
        (0..numbers).map(|step| Qpn((start + step) % numbers)).find(|qpn| self.open_at(*qpn))
    }

    fn open_at(&mut self, qpn: Qpn) -> bool {
        let Ok(local) = LocalDoor::open(&self.fabric, Endpoint { gid: self.gid, qpn }) else { return false };
        let tcp = match TcpDoor::open(self.host, self.first_port, self.device, qpn) {
            Ok(door) => Some(door),
            // A host that is only itself can do without.
            Err(error) if error.kind() != ErrorKind::AddrInUse && self.shares_memory => None,
            Err(_) => return false,
        };
        let token = Token::new(self.device.into(), Role::Door, qpn.0.into());
        let watched = self.poller.watch(local.as_fd(), token);
        let watched = watched.and(tcp.as_ref().map_or(Ok(()), |tcp| self.poller.watch(tcp.as_fd(), token)));
        watched.is_ok() && self.doors.insert(qpn, Door { local, tcp }).is_none()
    }

    /// Shuts the door of a queue pair.
    pub(super) fn shut(&mut self, qpn: Qpn) {
        self.doors.remove(&qpn);
    }

    /// Lets in who stands before a door; they have yet to say hello.
    pub(super) fn let_in(&mut self, qpn: Qpn) {
        let Some(door) = self.doors.get(&qpn) else { return };
        let local = std::iter::from_fn(|| door.local.accept()).map(Greeting::Local);
        let tcp = std::iter::from_fn(|| door.tcp.as_ref()?.accept()).map(Greeting::Tcp);
        let guests: Vec<Greeting> = local.chain(tcp).collect();
        for guest in guests {
            let number = self.next_greeting;
            self.next_greeting += 1;
            let token = Token::new(self.device.into(), Role::Greeting, number);
            let fd = match &guest {
                Greeting::Local(greeting) => greeting.as_fd(),
                Greeting::Tcp(greeting) => greeting.as_fd(),
            };
            if self.poller.watch(fd, token).is_ok() {
                self.greetings.insert(number, guest);
            }
        }
    }

    /// Hears a greeting; the link, once it makes sense and is meant for us.
    pub(super) fn hear(&mut self, number: u64) -> Option<(Hello, Link)> {
        let (hello, link) = match self.greetings.remove(&number)? {
            Greeting::Local(greeting) => {
                self.poller.forget(greeting.as_fd());
                let (hello, link) = greeting.finish()?;
                (hello, Link::Local(link))
            }
            Greeting::Tcp(greeting) => match greeting.read() {
                Greeted::NotYet(greeting) => {
                    self.greetings.insert(number, Greeting::Tcp(greeting));
                    return None;
                }
                Greeted::Link(hello, link) => {
                    self.poller.forget(link.as_fd());
                    (hello, Link::Tcp(link))
                }
                Greeted::Nonsense => return None,
            },
        };
        let is_ours =
            hello.fabric == self.fabric && hello.to.gid == self.gid && self.doors.contains_key(&hello.to.qpn);
        is_ours.then_some((hello, link))
    }
}
