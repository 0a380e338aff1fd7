//! Where ranks meet: unique ids, and the meeting points behind them.

use std::net::IpAddr;
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use efarun_rt::bootstrap::invitation::{Host, Invitation};
use efarun_rt::bootstrap::{self, identity};
use efarun_rt::config::{Config, Environment};

use crate::abi::UniqueId;
use crate::comm::Comm;
use crate::outcome::Failure;

/// The meeting points that this process serves.
static HOSTS: Mutex<Vec<Host>> = Mutex::new(Vec::new());

/// Opens a meeting point, and gives the id that leads to it.
pub(crate) fn open() -> Result<UniqueId, Failure> {
    static AT_EXIT: Once = Once::new();
    AT_EXIT.call_once(wait_at_exit);
    let environment = Environment::of_process();
    let names = environment.text("NCCL_SOCKET_IFNAME").ok().flatten().map(str::to_owned);
    let address: Option<IpAddr> =
        environment.text("EFARUN_NODE_ADDRESS").ok().flatten().and_then(|text| text.parse().ok());
    let is_used = |name: &str, found: IpAddr| {
        address.is_none_or(|address| address == found)
            && names.as_deref().is_none_or(|names| is_named(names, name))
    };
    let host = Host::open(&is_used, patience())?;
    let id = UniqueId { internal: host.invitation().to_bytes() };
    let mut hosts = HOSTS.lock().unwrap_or_else(PoisonError::into_inner);
    hosts.retain(|host| !host.wait(Duration::ZERO));
    hosts.push(host);
    Ok(id)
}

/// The invitation behind an id.
pub(crate) fn invitation(id: &UniqueId) -> Result<Invitation, Failure> {
    Invitation::from_bytes(&id.internal).ok_or_else(|| {
        Failure::argument(
            "the unique id is not from this library: are all ranks running with efarun's libnccl.so.2?",
        )
    })
}

/// How long ranks may take to come to a communicator's making.
pub(crate) fn patience() -> Duration {
    let set = Environment::of_process().seconds("EFARUN_BOOTSTRAP_TIMEOUT").ok().flatten();
    set.unwrap_or(Duration::from_secs(600))
}

/// How long a rank may be late in a call: NCCL waits for ever, and so do we unless told.
pub(crate) fn deadline() -> Duration {
    let set = Environment::of_process().seconds("EFARUN_DEADLINE").ok().flatten();
    set.unwrap_or(Duration::from_secs(10 * 365 * 86_400))
}

/// Whether ranks may share GPUs.
pub(crate) fn shared_gpus() -> Result<bool, Failure> {
    let config = Config::from_environment(&Environment::of_process()).map_err(efarun_rt::Error::from)?;
    Ok(config.shared_gpus)
}

/// This process's link to efarun, where the communicator is of all ranks of its job, numbered alike. All ranks of the job
/// must ask.
pub(crate) fn by_efarun(id: &UniqueId, rank: u32, ranks: u32) -> Result<Option<identity::Identity>, Failure> {
    let Ok(found @ identity::Identity::Agent { rank: job_rank, world_size, .. }) =
        identity::detect(&Environment::of_process())
    else {
        return Ok(None);
    };
    if world_size != ranks {
        return Ok(None);
    }
    let Some(mut oob) = bootstrap::connect(&found, patience())? else { return Ok(None) };
    let mine = [&id.internal[..], &rank.to_le_bytes()[..]].concat();
    let all =
        oob.allgather("nccl-communicator", efarun_rt::bootstrap::Participants::World, mine, patience())?;
    oob.leave();
    let is_alike = all.iter().all(|(of, bytes)| {
        bytes.get(..128) == Some(&id.internal[..]) && bytes.get(128..) == Some(&of.0.to_le_bytes()[..])
    });
    debug_assert!(!is_alike || job_rank.0 == rank);
    Ok(is_alike.then_some(found))
}

/// Whether `NCCL_SOCKET_IFNAME` means an interface: names begin so, with `=` are so, and with `^` are not.
fn is_named(names: &str, interface: &str) -> bool {
    let (is_wanted, names) = names.strip_prefix('^').map_or((true, names), |names| (false, names));
    let (is_whole, names) = names.strip_prefix('=').map_or((false, names), |names| (true, names));
    let mut names = names.split(',').filter(|name| !name.is_empty());
    is_wanted == names.any(|name| if is_whole { interface == name } else { interface.starts_with(name) })
}

/// Lets a process that hosts a meeting point stay a moment for ranks that have not said goodbye yet, where its own have.
#[expect(unsafe_code, reason = "atexit is C's")]
fn wait_at_exit() {
    extern "C" fn wait() {
        if !Comm::all().is_empty() {
            return;
        }
        let Ok(hosts) = HOSTS.try_lock() else { return };
        let deadline = Instant::now() + LAST_WAIT;
        for host in hosts.iter().filter(|host| host.has_begun()) {
            host.wait(deadline.saturating_duration_since(Instant::now()));
        }
    }
    // SAFETY: the function takes nothing and does not panic.
    unsafe { libc::atexit(wait) };
}

const LAST_WAIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_named_as_nccl_names_them() {
        assert!(is_named("eth,ens", "ens5") && !is_named("eth", "ens5"));
        assert!(is_named("=eth0", "eth0") && !is_named("=eth", "eth0"));
        assert!(is_named("^docker,lo", "eth0") && !is_named("^docker,lo", "docker0"));
    }

    #[test]
    fn bytes_that_are_no_invitation_are_told_so() {
        let failure = invitation(&UniqueId { internal: [0; 128] }).expect_err("it is none");
        assert!(failure.reason.contains("libnccl.so.2"), "{}", failure.reason);
    }
}
