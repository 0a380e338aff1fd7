//! PMI-2: `cmd=NAME;KEY=VALUE;…` behind its length, each answered by `cmd=NAME-response;…`.
//!
//! A thread of the client numbers its request by `thrid`, which goes back with the answer. Slurm's libpmi2 refuses an
//! answer to `fullinit` that lacks any of the fields here.

use efarun_wire::message::SpawnProgram;

use super::framing::LENGTH_BYTES;
use super::groups::Group;
use super::request::{Asked, Fault, Reply, Request, SpawnPart};

/// Reads a message, and by what its sender's thread is told apart.
///
/// # Errors
///
/// What is no message, or lacks what its command needs.
pub(super) fn parse(message: &[u8]) -> Result<Asked, Fault> {
    let fields = Fields::read(message).ok_or_else(|| Fault::no_message(message))?;
    let request = match fields.command {
        b"fullinit" => Request::FullInit,
        b"job-getid" => Request::SpaceName,
        b"kvs-put" => Request::Put { key: fields.bytes("key")?, value: fields.bytes("value")? },
        b"kvs-get" => Request::Get { key: fields.bytes("key")? },
        b"kvs-fence" => Request::Barrier { group: Group::World, tag: None },
        b"info-putnodeattr" => {
            Request::PutOnNode { key: fields.bytes("key")?, value: fields.bytes("value")? }
        }
        b"info-getnodeattr" => {
            let waits = fields.value("wait").is_some_and(|wait| wait.eq_ignore_ascii_case(b"true"));
            Request::GetOnNode { key: fields.bytes("key")?, waits }
        }
        b"info-getjobattr" => Request::JobAttribute { key: fields.bytes("key")? },
        b"name-publish" => Request::Publish { name: fields.bytes("name")?, port: fields.bytes("port")? },
        b"name-unpublish" => Request::Unpublish { name: fields.bytes("name")? },
        b"name-lookup" => Request::Lookup { name: fields.bytes("name")? },
        b"spawn" => Request::Spawn(spawn(&fields)?),
        b"finalize" => Request::Finalize,
        b"abort" => Request::Abort {
            code: fields.text("exitcode").and_then(|code| code.parse().ok()).unwrap_or(1),
            reason: fields.text("msg").map(one_line).unwrap_or_default(),
        },
        other => Request::Other { name: String::from_utf8_lossy(other).into_owned() },
    };
    Ok((request, fields.value("thrid").map(<[u8]>::to_vec)))
}

/// Writes an answer.
pub(super) fn render(reply: &Reply, thread: Option<&[u8]>) -> Vec<u8> {
    let done = |done: &Result<(), &'static str>| match done {
        Ok(()) => "rc=0;".to_owned(),
        Err(reason) => format!("rc=-1;errmsg={reason};"),
    };
    let found = |value: &Option<Vec<u8>>| match value {
        Some(value) => [b"found=TRUE;value=", &value[..], b";rc=0;"].concat(),
        None => b"found=FALSE;rc=0;".to_vec(),
    };
    match reply {
        Reply::FullInit { rank, size, app } => {
            let fields = format!(
                "rc=0;pmi-version=2;pmi-subversion=0;rank={rank};size={size};appnum={app};debugged=FALSE;pmiverbose=FALSE;"
            );
            framed("fullinit", thread, fields.as_bytes())
        }
        Reply::SpaceName(name) => framed("job-getid", thread, format!("jobid={name};rc=0;").as_bytes()),
        Reply::Put(outcome) => framed("kvs-put", thread, done(outcome).as_bytes()),
        Reply::Get(value) => framed("kvs-get", thread, &found(value)),
        Reply::Barrier { .. } => framed("kvs-fence", thread, b"rc=0;"),
        Reply::PutOnNode(outcome) => framed("info-putnodeattr", thread, done(outcome).as_bytes()),
        Reply::GetOnNode(value) => framed("info-getnodeattr", thread, &found(value)),
        Reply::JobAttribute(value) => framed("info-getjobattr", thread, &found(value)),
        Reply::Publish(outcome) => framed("name-publish", thread, done(outcome).as_bytes()),
        Reply::Unpublish(outcome) => framed("name-unpublish", thread, done(outcome).as_bytes()),
        Reply::Lookup(Some(port)) => {
            let fields = [b"found=TRUE;value=", &port[..], b";port=", port, b";rc=0;"].concat();
            framed("name-lookup", thread, &fields)
        }
        Reply::Lookup(None) => framed("name-lookup", thread, b"found=FALSE;rc=-1;errmsg=service_not_found;"),
        Reply::Spawned(Ok((name, _))) => {
            framed("spawn", thread, format!("rc=0;jobid={name};nerrs=0;").as_bytes())
        }
        Reply::Spawned(Err(reason)) => {
            let reason = reason.replace(';', ",");
            framed("spawn", thread, format!("rc=-1;errmsg={reason};").as_bytes())
        }
        Reply::Finalize => framed("finalize", thread, b"rc=0;"),
        Reply::Other { name } => framed(name, thread, b"rc=-1;errmsg=unsupported;"),
        // PMI-1's alone: its form is what an answer to them has.
        Reply::Init { .. } | Reply::Limits | Reply::AppNumber(_) | Reply::UniverseSize(_) => {
            super::pmi1::render(reply)
        }
    }
}

/// Reads the programs of a world that is asked for: what is said behind a `subcmd` is of that program.
fn spawn(fields: &Fields<'_>) -> Result<SpawnPart, Fault> {
    let mut part = SpawnPart::default();
    let (mut key, mut info): (&[u8], &[u8]) = (b"", b"");
    for (name, value) in &fields.pairs {
        let starts_with = |prefix: &str| name.starts_with(prefix.as_bytes());
        match part.programs.last_mut() {
            _ if *name == b"subcmd" => {
                part.programs.push(SpawnProgram { program: value.to_vec(), ..SpawnProgram::default() });
            }
            None if starts_with("ppkey") => key = value,
            None if starts_with("ppval") => part.keys.push((key.to_vec(), value.to_vec())),
            Some(program) if *name == b"maxprocs" => {
                let count = std::str::from_utf8(value).ok().and_then(|count| count.parse().ok());
                program.count = count.ok_or_else(|| fields.lacks("maxprocs"))?;
            }
            Some(program) if starts_with("argv") => program.args.push(value.to_vec()),
            Some(_) if starts_with("infokey") && *name != b"infokeycount" => info = value,
            Some(_) if starts_with("infoval") => part.inform(info, value),
            _ => {}
        }
    }
    part.total = part.programs.len();
    if part.programs.is_empty() { Err(fields.lacks("subcmd")) } else { Ok(part) }
}

fn framed(command: &str, thread: Option<&[u8]>, fields: &[u8]) -> Vec<u8> {
    let mut body = format!("cmd={command}-response;").into_bytes();
    if let Some(thread) = thread {
        body.extend([b"thrid=", thread, b";"].concat());
    }
    body.extend_from_slice(fields);
    let mut framed = format!("{:>LENGTH_BYTES$}", body.len()).into_bytes();
    framed.extend(body);
    framed
}

struct Fields<'a> {
    command: &'a [u8],
    pairs: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Fields<'a> {
    fn read(message: &'a [u8]) -> Option<Fields<'a>> {
        let words = message.trim_ascii_end().split(|byte| *byte == b';');
        let pair = |word: &'a [u8]| {
            let at = word.iter().position(|byte| *byte == b'=')?;
            Some((&word[..at], &word[at + 1..]))
        };
        let mut pairs: Vec<_> = words.filter_map(pair).collect();
        let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let is_message = matches!(
            pairs.first(),
            Some((b"cmd", command)) if (1..=NAME_BYTES).contains(&command.len()) && command.iter().all(is_of_name)
        );
        is_message.then(|| Fields { command: pairs.remove(0).1, pairs })
    }

    fn value(&self, key: &str) -> Option<&'a [u8]> {
        self.pairs.iter().find(|(found, _)| *found == key.as_bytes()).map(|(_, value)| *value)
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.value(key).and_then(|value| std::str::from_utf8(value).ok())
    }

    fn bytes(&self, field: &'static str) -> Result<Vec<u8>, Fault> {
        self.value(field).map(<[u8]>::to_vec).ok_or_else(|| self.lacks(field))
    }

    fn lacks(&self, field: &'static str) -> Fault {
        Fault::Field { command: String::from_utf8_lossy(self.command).into_owned(), field }
    }
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

const NAME_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_with_their_threads() {
        let put = Request::Put { key: b"a".into(), value: b"x=y z".into() };
        assert_eq!(parse(b"cmd=kvs-put;thrid=0x7f;key=a;value=x=y z;"), Ok((put, Some(b"0x7f".into()))));
        assert_eq!(
            parse(b"cmd=info-getnodeattr;key=k;wait=TRUE;"),
            Ok((Request::GetOnNode { key: b"k".into(), waits: true }, None))
        );
        assert!(parse(b"cmd=kvs-put;key=a;").is_err() && parse(b"kvs-put;").is_err() && parse(b"").is_err());
    }

    #[test]
    fn answers_say_their_length_and_thread() {
        assert_eq!(
            render(&Reply::Get(Some(b"v".into())), Some(b"7")),
            b"    53cmd=kvs-get-response;thrid=7;found=TRUE;value=v;rc=0;"
        );
        assert_eq!(render(&Reply::Finalize, None), b"    27cmd=finalize-response;rc=0;");
    }
}
