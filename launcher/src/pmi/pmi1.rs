//! PMI-1: a line each, `cmd=NAME KEY=VALUE …`, and for `mcmd` a line per value.
//!
//! Versions from MPICH 4.2 on put a backslash before blanks and backslashes of values; older ones have neither in them.
//! Values go back as they came; what is shown to the user is freed of backslashes.

use efarun_wire::message::SpawnProgram;

use super::groups::Group;
use super::keys::{MAX_KEY_BYTES, MAX_NAME_BYTES, MAX_VALUE_BYTES};
use super::request::{self, Fault, Reply, Request, SpawnPart};

/// Reads a message.
///
/// # Errors
///
/// What is no message, or lacks what its command needs.
pub(super) fn parse(message: &[u8]) -> Result<Request, Fault> {
    let fields = Fields::read(message).ok_or_else(|| Fault::no_message(message))?;
    Ok(match fields.command {
        b"init" => Request::Init {
            version: fields.number("pmi_version")?,
            subversion: fields.number("pmi_subversion")?,
        },
        b"get_maxes" => Request::Limits,
        b"get_appnum" => Request::AppNumber,
        b"get_my_kvsname" => Request::SpaceName,
        b"get_universe_size" => Request::UniverseSize,
        b"put" => Request::Put { key: fields.bytes("key")?, value: fields.bytes("value")? },
        b"get" => Request::Get { key: fields.bytes("key")? },
        b"barrier_in" => {
            let (group, tag) = match fields.value("group") {
                None => (Group::World, None),
                Some(group) => std::str::from_utf8(group)
                    .ok()
                    .and_then(Group::parse)
                    .ok_or_else(|| fields.lacks("group"))?,
            };
            Request::Barrier { group, tag }
        }
        b"publish_name" => Request::Publish { name: fields.bytes("service")?, port: fields.bytes("port")? },
        b"unpublish_name" => Request::Unpublish { name: fields.bytes("service")? },
        b"lookup_name" => Request::Lookup { name: fields.bytes("service")? },
        b"spawn" if message.starts_with(b"mcmd=") => Request::Spawn(spawn_part(&fields)?),
        b"finalize" => Request::Finalize,
        b"abort" => Request::Abort {
            code: fields.number("exitcode").unwrap_or(1),
            reason: fields.value("message").map(shown).unwrap_or_default(),
        },
        other => Request::Other { name: String::from_utf8_lossy(other).into_owned() },
    })
}

/// Reads a greeting, which stands before everything else on a connection that nobody knows. Gives the number in it.
pub(super) fn parse_greeting(line: &[u8]) -> Option<u32> {
    let fields = Fields::read(line).filter(|fields| fields.command == b"initack")?;
    fields.number("pmiid").ok()
}

/// Writes an answer.
pub(super) fn render(reply: &Reply) -> Vec<u8> {
    match reply {
        Reply::Init { version, subversion, is_known } => {
            let rc = if *is_known { 0 } else { -1 };
            line("response_to_init", &[("pmi_version", version), ("pmi_subversion", subversion), ("rc", &rc)])
        }
        Reply::Limits => line(
            "maxes",
            &[
                ("rc", &0),
                ("kvsname_max", &MAX_NAME_BYTES),
                ("keylen_max", &MAX_KEY_BYTES),
                ("vallen_max", &MAX_VALUE_BYTES),
            ],
        ),
        Reply::AppNumber(number) => line("appnum", &[("rc", &0), ("appnum", number)]),
        Reply::SpaceName(name) => line("my_kvsname", &[("rc", &0), ("kvsname", name)]),
        Reply::UniverseSize(size) => line("universe_size", &[("rc", &0), ("size", size)]),
        Reply::Put(done) | Reply::PutOnNode(done) => outcome("put_result", done),
        Reply::Get(value) | Reply::GetOnNode(value) | Reply::JobAttribute(value) => match value {
            Some(value) => {
                with_bytes(line("get_result", &[("rc", &0), ("msg", &"success")]), b"value", value)
            }
            None => line("get_result", &[("rc", &-1), ("msg", &"key_not_found"), ("value", &"unknown")]),
        },
        Reply::Barrier { tag: None } => line("barrier_out", &[("rc", &0)]),
        Reply::Barrier { tag: Some(tag) } => line("barrier_out", &[("rc", &0), ("tag", tag)]),
        Reply::Publish(done) => outcome("publish_result", done),
        Reply::Unpublish(done) => outcome("unpublish_result", done),
        Reply::Lookup(Some(port)) => with_bytes(line("lookup_result", &[("rc", &0)]), b"port", port),
        Reply::Lookup(None) => line("lookup_result", &[("rc", &-1), ("msg", &"service_not_found")]),
        Reply::Spawned(Ok((name, size))) => {
            let codes = vec!["0"; *size as usize].join(",");
            // Lines are short in clients; one that lacks the codes has all ranks running.
            let codes = if codes.len() <= MAX_VALUE_BYTES / 2 { codes } else { "0".to_owned() };
            line("spawn_result", &[("rc", &0), ("jobid", name), ("errcodes", &codes)])
        }
        Reply::Spawned(Err(reason)) => {
            let reason: String = reason.chars().map(|c| if c == ' ' { '_' } else { c }).collect();
            let reason: String = reason.chars().take(LONGEST_REASON).collect();
            line("spawn_result", &[("rc", &-1), ("errmsg", &reason)])
        }
        Reply::Finalize => line("finalize_ack", &[("rc", &0)]),
        Reply::FullInit { .. } => line("fullinit_result", &[("rc", &-1), ("msg", &"unsupported")]),
        Reply::Other { name } => line(&format!("{name}_result"), &[("rc", &-1), ("msg", &"unsupported")]),
    }
}

/// Reads one of the programs of a world that is asked for.
fn spawn_part(fields: &Fields<'_>) -> Result<SpawnPart, Fault> {
    let numbered = |prefix: &str, number: u32| fields.value(&format!("{prefix}{number}"));
    let count = |field| fields.number::<u32>(field).unwrap_or_default().min(MAX_FIELDS);
    let args = (1..=count("argcnt")).map_while(|number| numbered("arg", number));
    let program = SpawnProgram {
        program: fields.bytes("execname")?,
        args: args.map(<[u8]>::to_vec).collect(),
        count: fields.number("nprocs")?,
        ..SpawnProgram::default()
    };
    let pairs = |keys: &'static str, values: &'static str, count: u32| {
        (0..count).filter_map(move |number| Some((numbered(keys, number)?, numbered(values, number)?)))
    };
    let keys = pairs("preput_key_", "preput_val_", count("preput_num"));
    let keys = keys.map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
    let total = fields.number("totspawns")?;
    let mut part = SpawnPart { total, programs: vec![program], keys };
    pairs("info_key_", "info_val_", count("info_num")).for_each(|(key, value)| part.inform(key, value));
    Ok(part)
}

fn line(command: &str, fields: &[(&str, &dyn std::fmt::Display)]) -> Vec<u8> {
    let fields: String = fields.iter().map(|(key, value)| format!(" {key}={value}")).collect();
    format!("cmd={command}{fields}\n").into_bytes()
}

fn outcome(command: &str, done: &Result<(), &'static str>) -> Vec<u8> {
    match done {
        Ok(()) => line(command, &[("rc", &0), ("msg", &"success")]),
        Err(reason) => line(command, &[("rc", &-1), ("msg", reason)]),
    }
}

fn with_bytes(mut line: Vec<u8>, key: &[u8], value: &[u8]) -> Vec<u8> {
    line.pop();
    line.push(b' ');
    line.extend_from_slice(key);
    line.push(b'=');
    line.extend_from_slice(value);
    line.push(b'\n');
    line
}

/// A message's parts. A value's backslashes are still in it.
struct Fields<'a> {
    command: &'a [u8],
    pairs: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Fields<'a> {
    fn read(message: &'a [u8]) -> Option<Fields<'a>> {
        let mut pairs: Vec<_> = if message.starts_with(b"mcmd=") {
            message.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(pair).collect()
        } else {
            words(message).map(pair).collect()
        };
        let is_message = matches!(pairs.first(), Some((b"cmd" | b"mcmd", command)) if is_name(command));
        is_message.then(|| Fields { command: pairs.remove(0).1, pairs })
    }

    fn value(&self, key: &str) -> Option<&'a [u8]> {
        self.pairs.iter().find(|(found, _)| *found == key.as_bytes()).map(|(_, value)| *value)
    }

    fn bytes(&self, key: &'static str) -> Result<Vec<u8>, Fault> {
        self.value(key).map(<[u8]>::to_vec).ok_or_else(|| self.lacks(key))
    }

    fn number<N: std::str::FromStr>(&self, key: &'static str) -> Result<N, Fault> {
        let text = self.value(key).and_then(|value| std::str::from_utf8(value).ok());
        text.and_then(|text| text.parse().ok()).ok_or_else(|| self.lacks(key))
    }

    fn lacks(&self, field: &'static str) -> Fault {
        Fault::Field { command: String::from_utf8_lossy(self.command).into_owned(), field }
    }
}

fn pair(word: &[u8]) -> (&[u8], &[u8]) {
    match word.iter().position(|byte| *byte == b'=') {
        Some(at) => (&word[..at], &word[at + 1..]),
        None => (word, &[]),
    }
}

/// Cuts at blanks that have no backslash before them.
fn words(message: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut is_escaped = false;
    let is_end = move |byte: &u8| {
        let ends = *byte == b' ' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        ends
    };
    message.split(is_end).filter(|word| !word.is_empty())
}

fn is_name(command: &[u8]) -> bool {
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    !command.is_empty() && command.len() <= MAX_KEY_BYTES && command.iter().all(is_of_name)
}

/// A value as a person reads it: without its backslashes, on one line.
fn shown(value: &[u8]) -> String {
    let mut bytes = value.iter().copied();
    let mut plain = Vec::new();
    while let Some(byte) = bytes.next() {
        plain.push(if byte == b'\\' { bytes.next().unwrap_or(byte) } else { byte });
    }
    request::shown(&plain)
}

/// More arguments than a message has room for.
const MAX_FIELDS: u32 = 32 << 10;
const LONGEST_REASON: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_libraries_write_them() {
        let cases: [(&str, Request); 9] = [
            ("cmd=init pmi_version=1 pmi_subversion=1", Request::Init { version: 1, subversion: 1 }),
            ("cmd=get_maxes ", Request::Limits),
            (
                "cmd=put kvsname=kvs_1 key=P0-businesscard value=description#h1$port#1$",
                Request::Put { key: b"P0-businesscard".into(), value: b"description#h1$port#1$".into() },
            ),
            (
                r"cmd=put kvsname=k key=a value=x\ y\\ z",
                Request::Put { key: b"a".into(), value: br"x\ y\\".into() },
            ),
            ("cmd=barrier_in", Request::Barrier { group: Group::World, tag: None }),
            (
                "cmd=barrier_in group=0,2:9",
                Request::Barrier { group: Group::Ranks(vec![0, 2]), tag: Some(9) },
            ),
            ("cmd=abort exitcode=7", Request::Abort { code: 7, reason: String::new() }),
            (
                r"cmd=abort exitcode=-1 message=went\ wrong",
                Request::Abort { code: -1, reason: "went wrong".into() },
            ),
            (
                "mcmd=spawn\nnprocs=2\nexecname=a b\ntotspawns=3\nspawnssofar=1\narg1=x y\narg2=\nargcnt=2\n\
                 preput_num=1\npreput_key_0=PARENT\npreput_val_0=tag=1\ninfo_num=2\ninfo_key_0=host\n\
                 info_val_0=h1,h2\ninfo_key_1=soft\ninfo_val_1=1\n",
                Request::Spawn(SpawnPart {
                    total: 3,
                    programs: vec![SpawnProgram {
                        program: b"a b".into(),
                        args: vec![b"x y".into(), b"".into()],
                        count: 2,
                        hosts: vec!["h1".into(), "h2".into()],
                        unknown: vec!["soft".into()],
                        ..SpawnProgram::default()
                    }],
                    keys: vec![(b"PARENT".into(), b"tag=1".into())],
                }),
            ),
        ];
        for (message, request) in cases {
            assert_eq!(parse(message.as_bytes()), Ok(request), "{message}");
        }
    }

    #[test]
    fn what_is_no_request_is_named() {
        for wrong in
            ["", "hello", "cmd=", "cmd", "a=b cmd=init", "cmd=in\u{1}it", "cmd=put key=a", "cmd=init"]
        {
            let fault = parse(wrong.as_bytes()).unwrap_err().to_string();
            assert!(fault.starts_with("sent "), "{wrong}: {fault}");
        }
    }

    #[test]
    fn answers_are_one_line_of_what_libraries_read() {
        let init = Reply::Init { version: 1, subversion: 1, is_known: true };
        assert_eq!(render(&init), b"cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0\n");
        let value = Reply::Get(Some(br"x\ y".into()));
        assert_eq!(render(&value), b"cmd=get_result rc=0 msg=success value=x\\ y\n");
        assert_eq!(render(&Reply::Barrier { tag: Some(4) }), b"cmd=barrier_out rc=0 tag=4\n");
        assert_eq!(render(&Reply::Put(Err("no_room"))), b"cmd=put_result rc=-1 msg=no_room\n");
    }
}
