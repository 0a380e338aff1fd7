//! Who answers where an SSH handshake failed.
//!
//! libssh2 does not tell what came instead of a server's first line. So a second connection is made, says the first
//! line of the protocol, and reads one line: a web server, a proxy or a mail server name themselves by it, and an sshd
//! that is overloaded says so.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// What a server answers to the first line of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is an SSH server.
    Ssh,
    /// It is an SSH server that has too many connections, and its words for that.
    Busy(String),
    /// Something else: its first line.
    Other(String),
    /// It hung up, or said nothing.
    Nothing,
}

/// Asks, for at most `patience`.
pub(crate) fn ask(address: SocketAddr, patience: Duration) -> Answer {
    first_line(address, Instant::now() + patience).map_or(Answer::Nothing, |line| judge(&line))
}

fn first_line(address: SocketAddr, deadline: Instant) -> Option<String> {
    let left = || deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
    let mut tcp = TcpStream::connect_timeout(&address, left()?).ok()?;
    // Fails when it has hung up already; what it said before is still there.
    let _ = tcp.write_all(b"SSH-2.0-efarun\r\n");
    let mut said = Vec::new();
    let mut buffer = [0; LONGEST_LINE];
    while !said.contains(&b'\n') && said.len() < LONGEST_LINE {
        tcp.set_read_timeout(Some(left()?)).ok()?;
        match tcp.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(len) => said.extend_from_slice(&buffer[..len]),
        }
    }
    let line = said.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii();
    let line = String::from_utf8_lossy(&line[..line.len().min(SHOWN_BYTES)]).escape_default().to_string();
    (!line.is_empty()).then_some(line)
}

fn judge(line: &str) -> Answer {
    let line = line.to_owned();
    if line.starts_with("SSH-") {
        Answer::Ssh
    } else if line.contains("MaxStartups") || line.contains("Not allowed at this time") {
        // OpenSSH's words, of 8.5 and later and of 9.8 and later, for a client that it turns away for now.
        Answer::Busy(line)
    } else {
        Answer::Other(line)
    }
}

/// RFC 4253 allows a first line of 255 bytes.
const LONGEST_LINE: usize = 255;

/// How much of it is repeated.
const SHOWN_BYTES: usize = 80;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn answer_of(line: &'static str) -> Answer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut tcp, _) = listener.accept().unwrap();
            let mut asked = [0; 4];
            tcp.read_exact(&mut asked).unwrap();
            assert_eq!(&asked, b"SSH-");
            tcp.write_all(line.as_bytes()).unwrap();
        });
        let answer = ask(address, Duration::from_secs(10));
        server.join().unwrap();
        answer
    }

    #[test]
    fn a_server_is_known_by_its_first_line() {
        assert_eq!(answer_of("SSH-2.0-OpenSSH_9.2p1\r\n"), Answer::Ssh);
        assert_eq!(answer_of("Exceeded MaxStartups\r\n"), Answer::Busy("Exceeded MaxStartups".into()));
        assert_eq!(answer_of("220 mail\x1b ESMTP\r\nmore"), Answer::Other("220 mail\\u{1b} ESMTP".into()));
        assert_eq!(answer_of("no end of line"), Answer::Other("no end of line".into()));
        assert_eq!(answer_of(""), Answer::Nothing);
    }

    #[test]
    fn a_server_that_says_nothing_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let answer = ask(listener.local_addr().unwrap(), Duration::from_millis(100));
        assert_eq!(answer, Answer::Nothing);
    }
}
