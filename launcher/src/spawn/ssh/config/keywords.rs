//! Every keyword of ssh_config, and what becomes of it: one table.
//!
//! A keyword is *honoured* by the built-in SSH, or *for the system's ssh*, which then reaches that host instead, or
//! makes *no difference* to an agent that is started without a terminal, forwarding or questions; the table says
//! why, and `-v` repeats it. Whatever is not in it, or has a value that we cannot read, is left to the system's ssh too, which knows it or
//! names it as wrong: no setting of the user's is dropped in silence.
//!
//! The keywords are those of OpenSSH 6.6 to 10.2 and of Debian's GSSAPI patch. A test compares them with the manual.

/// What becomes of a keyword.
#[derive(Debug, Clone, Copy)]
pub(super) enum Treatment {
    /// The built-in SSH acts on it, if the value passes; else the system's ssh does, or names what is wrong.
    Honoured(fn(&str) -> bool),
    /// The system's ssh acts on it, if the value asks for something; else there is nothing to do.
    System(fn(&str) -> bool),
    /// It changes nothing here, for this reason.
    NoDifference(&'static str),
}

/// A keyword as it is written in manuals, and what becomes of it. Letters match in either case.
pub(super) fn find(keyword: &str) -> Option<&'static (&'static str, Treatment)> {
    TABLE.iter().find(|(name, _)| name.eq_ignore_ascii_case(keyword))
}

fn any(_: &str) -> bool {
    true
}

fn yes(value: &str) -> bool {
    value.eq_ignore_ascii_case("yes") || value.eq_ignore_ascii_case("true")
}

fn no(value: &str) -> bool {
    value.eq_ignore_ascii_case("no") || value.eq_ignore_ascii_case("false")
}

fn not_no(value: &str) -> bool {
    !no(value)
}

fn yes_or_no(value: &str) -> bool {
    yes(value) || no(value)
}

fn not_none(value: &str) -> bool {
    !value.eq_ignore_ascii_case("none")
}

fn port(value: &str) -> bool {
    value.parse::<u16>().is_ok_and(|port| port > 0)
}

fn count(value: &str) -> bool {
    value.parse::<u32>().is_ok_and(|count| count > 0)
}

fn seconds(value: &str) -> bool {
    super::duration(value).is_some() || matches!(value, "none" | "0")
}

fn one_of_families(value: &str) -> bool {
    ["any", "inet", "inet6"].iter().any(|family| value.eq_ignore_ascii_case(family))
}

fn host_key_check(value: &str) -> bool {
    yes_or_no(value) || matches!(value, "ask" | "off" | "accept-new")
}

/// Without what ssh 10 expands there.
fn plain(value: &str) -> bool {
    !value.contains(['%', '$'])
}

/// `+x`, `-x` and `^x` change OpenSSH's default, which is not libssh2's.
pub(super) fn plain_list(value: &str) -> bool {
    !value.starts_with(['+', '-', '^'])
}

fn without_keys(value: &str) -> bool {
    !value.split(',').any(|method| method.eq_ignore_ascii_case("publickey"))
}

fn not_default(value: &str) -> bool {
    !value.eq_ignore_ascii_case("default none") && !value.eq_ignore_ascii_case("default")
}

use Treatment::{Honoured, NoDifference, System};

const ASKED: &str = "nobody is asked for anything";
const FORWARDED: &str = "nothing is forwarded: agents and ranks talk over connections of their own";
const SHOWN: &str = "it changes what ssh shows";
const TERMINAL: &str = "there is no terminal";
const CANONICAL: &str = "it matters with CanonicalizeHostname only, which is for the system's ssh";
const GSSAPI: &str = "it matters with GSSAPIAuthentication only";
const HOSTBASED: &str = "it matters with HostbasedAuthentication only, which is for the system's ssh";
const OLD: &str = "OpenSSH itself ignores it by now";

const TABLE: &[(&str, Treatment)] = &[
    ("AddKeysToAgent", NoDifference("keys are used as they are, and the SSH agent is left as it is")),
    ("AddressFamily", Honoured(one_of_families)),
    ("AFSTokenPassing", NoDifference(OLD)),
    ("BatchMode", NoDifference(ASKED)),
    ("BindAddress", System(not_none)),
    ("BindInterface", System(not_none)),
    ("CanonicalDomains", NoDifference(CANONICAL)),
    ("CanonicalizeFallbackLocal", NoDifference(CANONICAL)),
    ("CanonicalizeHostname", System(not_no)),
    ("CanonicalizeMaxDots", NoDifference(CANONICAL)),
    ("CanonicalizePermittedCNAMEs", NoDifference(CANONICAL)),
    ("CASignatureAlgorithms", NoDifference("hosts with certificates are reached by the system's ssh")),
    ("CertificateFile", System(not_none)),
    ("ChallengeResponseAuthentication", NoDifference(ASKED)),
    ("ChannelTimeout", NoDifference("the agent is heard of every second")),
    ("CheckHostIP", System(yes)),
    ("Cipher", NoDifference(OLD)),
    ("Ciphers", Honoured(plain_list)),
    ("ClearAllForwardings", NoDifference(FORWARDED)),
    ("Compression", NoDifference("it changes speed, not what arrives")),
    ("CompressionLevel", NoDifference(OLD)),
    ("ConnectionAttempts", Honoured(count)),
    ("ConnectTimeout", Honoured(seconds)),
    (
        "ControlMaster",
        NoDifference("no connection is left open for others; one that is open is used by ControlPath"),
    ),
    ("ControlPath", System(not_none)),
    ("ControlPersist", NoDifference("no connection is left open for others")),
    ("DSAAuthentication", NoDifference(OLD)),
    ("DynamicForward", NoDifference(FORWARDED)),
    ("EnableEscapeCommandline", NoDifference(TERMINAL)),
    ("EnableSSHKeysign", NoDifference(HOSTBASED)),
    ("EscapeChar", NoDifference(TERMINAL)),
    ("ExitOnForwardFailure", NoDifference(FORWARDED)),
    ("FallBackToRsh", NoDifference(OLD)),
    ("FingerprintHash", NoDifference("fingerprints are shown as SHA256")),
    ("ForkAfterAuthentication", NoDifference("the connection is efarun's own")),
    ("ForwardAgent", NoDifference(FORWARDED)),
    ("ForwardX11", NoDifference(FORWARDED)),
    ("ForwardX11Timeout", NoDifference(FORWARDED)),
    ("ForwardX11Trusted", NoDifference(FORWARDED)),
    ("GatewayPorts", NoDifference(FORWARDED)),
    ("GlobalKnownHostsFile", Honoured(any)),
    ("GlobalKnownHostsFile2", NoDifference(OLD)),
    // Debian's own configuration asks for it on every host; it is one more way to be let in, and it is named when keys
    // are refused by a server that would have taken it.
    ("GSSAPIAuthentication", NoDifference("keys are tried; where they fail the error names it")),
    ("GSSAPIClientIdentity", NoDifference(GSSAPI)),
    ("GSSAPIDelegateCredentials", NoDifference(GSSAPI)),
    (
        "GSSAPIKexAlgorithms",
        NoDifference("it matters with GSSAPIKeyExchange only, which is for the system's ssh"),
    ),
    ("GSSAPIKeyExchange", System(yes)),
    ("GSSAPIRenewalForcesRekey", NoDifference(GSSAPI)),
    ("GSSAPIServerIdentity", NoDifference(GSSAPI)),
    ("GSSAPITrustDns", NoDifference(GSSAPI)),
    ("HashKnownHosts", Honoured(yes_or_no)),
    ("HostbasedAcceptedAlgorithms", NoDifference(HOSTBASED)),
    ("HostbasedAuthentication", System(yes)),
    ("HostbasedKeyTypes", NoDifference(HOSTBASED)),
    ("HostKeyAlgorithms", Honoured(plain_list)),
    ("HostKeyAlias", Honoured(any)),
    ("HostName", Honoured(any)),
    ("IdentitiesOnly", Honoured(yes_or_no)),
    ("IdentityAgent", Honoured(any)),
    ("IdentityFile", Honoured(any)),
    ("IgnoreUnknown", Honoured(any)),
    ("IPQoS", NoDifference("it changes the packets' priority, not what arrives")),
    ("KbdInteractiveAuthentication", NoDifference(ASKED)),
    ("KbdInteractiveDevices", NoDifference(ASKED)),
    ("KeepAlive", NoDifference("connections are kept alive by efarun")),
    ("KexAlgorithms", Honoured(plain_list)),
    ("KnownHostsCommand", System(not_none)),
    ("LocalCommand", NoDifference("it matters with PermitLocalCommand only, which is for the system's ssh")),
    ("LocalForward", NoDifference(FORWARDED)),
    ("LogLevel", NoDifference(SHOWN)),
    ("LogVerbose", NoDifference(SHOWN)),
    ("MACs", Honoured(plain_list)),
    ("NoHostAuthenticationForLocalhost", System(yes)),
    ("NumberOfPasswordPrompts", NoDifference(ASKED)),
    ("ObscureKeystrokeTiming", NoDifference(TERMINAL)),
    ("PasswordAuthentication", NoDifference(ASKED)),
    ("PermitLocalCommand", System(yes)),
    ("PermitRemoteOpen", NoDifference(FORWARDED)),
    ("PKCS11Provider", System(not_none)),
    ("Port", Honoured(port)),
    ("PreferredAuthentications", System(without_keys)),
    ("Protocol", NoDifference(OLD)),
    ("ProxyCommand", System(not_none)),
    ("ProxyJump", System(not_none)),
    ("ProxyUseFdpass", NoDifference("it matters with ProxyCommand only, which is for the system's ssh")),
    ("PubkeyAcceptedAlgorithms", System(any)),
    ("PubkeyAcceptedKeyTypes", System(any)),
    ("PubkeyAuthentication", System(no)),
    ("RefuseConnection", System(any)),
    ("RekeyLimit", System(not_default)),
    ("RemoteCommand", NoDifference("efarun runs a command of its own")),
    ("RemoteForward", NoDifference(FORWARDED)),
    ("RequestTTY", NoDifference(TERMINAL)),
    ("RequiredRSASize", System(any)),
    ("RevokedHostKeys", System(not_none)),
    ("RhostsRSAAuthentication", NoDifference(OLD)),
    ("RSAAuthentication", NoDifference(OLD)),
    (
        "SecurityKeyProvider",
        NoDifference("a security key that is needed is named with the system's ssh as the way"),
    ),
    ("SendEnv", NoDifference("what ranks get is decided by -x and the list in `efarun --help`")),
    ("ServerAliveCountMax", NoDifference("connections are watched by efarun")),
    ("ServerAliveInterval", NoDifference("connections are watched by efarun")),
    ("SessionType", NoDifference("efarun runs a command of its own")),
    ("SetEnv", Honoured(any)),
    ("SkeyAuthentication", NoDifference(OLD)),
    ("SmartcardDevice", System(not_none)),
    ("StdinNull", NoDifference("the connection is efarun's own")),
    ("StreamLocalBindMask", NoDifference(FORWARDED)),
    ("StreamLocalBindUnlink", NoDifference(FORWARDED)),
    ("StrictHostKeyChecking", Honoured(host_key_check)),
    ("SyslogFacility", NoDifference(SHOWN)),
    ("Tag", Honoured(any)),
    ("TCPKeepAlive", NoDifference("connections are kept alive by efarun")),
    ("TISAuthentication", NoDifference(OLD)),
    ("Tunnel", NoDifference(FORWARDED)),
    ("TunnelDevice", NoDifference(FORWARDED)),
    ("UpdateHostKeys", NoDifference("known_hosts gets no keys but those that StrictHostKeyChecking adds")),
    ("UsePrivilegedPort", NoDifference(OLD)),
    ("User", Honoured(plain)),
    ("UseRoaming", NoDifference(OLD)),
    ("UserKnownHostsFile", Honoured(any)),
    ("UserKnownHostsFile2", NoDifference(OLD)),
    ("UseRsh", NoDifference(OLD)),
    ("VerifyHostKeyDNS", System(yes)),
    ("VersionAddendum", NoDifference("it changes how the client names itself")),
    ("VisualHostKey", NoDifference(SHOWN)),
    ("WarnWeakCrypto", NoDifference(SHOWN)),
    ("XAuthLocation", NoDifference(FORWARDED)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_keyword_is_there_once_in_order_and_has_its_reason() {
        let names: Vec<String> = TABLE.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
        let mut sorted = names.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(names.len(), sorted.len(), "a keyword is there twice");
        for (name, treatment) in TABLE {
            assert!(!matches!(treatment, NoDifference("")), "{name}");
        }
    }

    #[test]
    fn every_keyword_of_the_manual_is_in_the_table() {
        let manual = "/usr/share/man/man5/ssh_config.5.gz";
        let text = std::process::Command::new("gzip").args(["-dc", manual]).output().unwrap().stdout;
        let text = String::from_utf8_lossy(&text);
        let mut keywords: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(".It Cm ")).collect();
        // Further down it lists the values and criteria of some, in small letters.
        keywords.retain(|keyword| {
            keyword.starts_with(|c: char| c.is_ascii_uppercase()) && !keyword.contains(' ')
        });
        if keywords.is_empty() {
            println!("SKIPPED: every_keyword_of_the_manual_is_in_the_table: there is no {manual}");
            return;
        }
        assert!(keywords.len() > 80, "{keywords:?}");
        keywords.retain(|keyword| !["Host", "Match", "Include"].contains(keyword));
        let missing: Vec<_> = keywords.into_iter().filter(|keyword| find(keyword).is_none()).collect();
        assert_eq!(missing, Vec::<&str>::new());
    }
}
