//! Two processes and one EFA endpoint each: small programs that check what arrives, and four that are wrong on
//! purpose.
//!
//! Started twice, once with `--listen` and once with `--connect`; what both must know of each other (addresses, keys,
//! who is ready) goes over that TCP connection. The listener is the target of whatever the program does.
//! Ends with 0 when everything that arrived was right, and with 1 and a sentence when something was not.

mod endpoint;
mod error;
mod link;
mod programs;
mod wrong;

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use error::Failure;
use link::Link;

/// A program on libfabric's EFA provider.
#[derive(Debug, Parser)]
struct Args {
    /// What to do.
    program: Program,
    /// Wait for the other process here, which is said, and be the target.
    #[arg(long, conflicts_with = "connect")]
    listen: Option<SocketAddr>,
    /// Find the other process there, where it must be waiting, and be the initiator.
    #[arg(long)]
    connect: Option<SocketAddr>,
    /// The device, by its domain's name; the first otherwise.
    #[arg(long)]
    domain: Option<String>,
    /// How often each check is made.
    #[arg(long, default_value_t = 4)]
    rounds: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Program {
    /// Tagged messages of all sizes, there and back.
    Tagged,
    /// Tagged messages, many at once.
    Bandwidth,
    /// Writes and reads of all sizes.
    Rma,
    /// Messages that come before their receives.
    Unexpected,
    /// Receives that are cancelled.
    Cancel,
    /// One buffer for many messages.
    MultiRecv,
    /// Data that comes with messages and writes.
    CqData,
    /// efa-direct: messages of one MTU.
    DirectSend,
    /// efa-direct: writes with immediate data, and reads.
    DirectWrite,
    /// Wrong: takes a write for complete when its last byte has come.
    WrongLastByte,
    /// Wrong: takes messages to come in the order in which they were sent.
    WrongOrder,
    /// Wrong: uses a slot for something else as soon as its flag has come.
    WrongReuse,
    /// Wrong: posts no receive.
    WrongNoReceive,
    /// Only waits for a message.
    Wait,
    /// Sends until that fails, and says how.
    SendUntilFailure,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => {
            say(&format!("{:?}: right", args.program));
            ExitCode::SUCCESS
        }
        Err(failure) => {
            complain(&failure);
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    let mut link = match (args.listen, args.connect) {
        (Some(address), None) => Link::listen(address)?,
        (None, Some(address)) => Link::connect(address)?,
        _ => return Err(Failure::Usage("say either --listen or --connect")),
    };
    let domain = args.domain.as_deref();
    match args.program {
        Program::Tagged => programs::tagged(&mut link, domain, args.rounds),
        Program::Bandwidth => programs::bandwidth(&mut link, domain, args.rounds),
        Program::Rma => programs::rma(&mut link, domain, args.rounds),
        Program::Unexpected => programs::unexpected(&mut link, domain, args.rounds),
        Program::Cancel => programs::cancel(&mut link, domain),
        Program::MultiRecv => programs::multi_recv(&mut link, domain),
        Program::CqData => programs::cq_data(&mut link, domain, args.rounds),
        Program::DirectSend => programs::direct_send(&mut link, domain, args.rounds),
        Program::DirectWrite => programs::direct_write(&mut link, domain, args.rounds),
        Program::WrongLastByte => wrong::last_byte(&mut link, domain, args.rounds),
        Program::WrongOrder => wrong::order(&mut link, domain, args.rounds),
        Program::WrongReuse => wrong::reuse(&mut link, domain, args.rounds),
        Program::WrongNoReceive => wrong::no_receive(&mut link, domain),
        Program::Wait => programs::wait(&mut link, domain),
        Program::SendUntilFailure => programs::send_until_failure(&mut link, domain),
    }
}

/// A line for whoever started the program.
#[expect(clippy::print_stdout, reason = "a program's result")]
fn say(line: &str) {
    println!("{line}");
}

#[expect(clippy::print_stderr, reason = "a program's complaint")]
fn complain(failure: &Failure) {
    eprintln!("soft-efa-program: {failure}");
}
