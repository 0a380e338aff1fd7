//! Which host names mean this machine.

use std::net::IpAddr;

use crate::job::Host;

/// Whether this is one of this machine's addresses.
pub fn has_address(address: IpAddr) -> bool {
    if address.is_loopback() {
        return true;
    }
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    interfaces.iter().any(|interface| interface.ip() == address)
}

/// Whether a host entry means this machine, so that its agent can be a child of this process.
///
/// It does when it is `localhost`, this machine's name, or one of its addresses, and says nothing about a user or a
/// port: whoever names those wants to go through sshd. Other names are not resolved: that is the spawner's part, and
/// an alias of this machine works over SSH as any other host does.
pub fn is_meant_by(host: &Host) -> bool {
    if host.user.is_some() || host.port.is_some() {
        return false;
    }
    let name = host.destination();
    if name == "localhost" {
        return true;
    }
    if let Ok(address) = name.parse() {
        return has_address(address);
    }
    let Ok(own) = hostname::get() else { return false };
    let own = own.to_string_lossy();
    let short = own.split('.').next().unwrap_or(&own);
    name == own || name == short
}
