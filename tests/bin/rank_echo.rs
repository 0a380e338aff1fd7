//! A rank that reports its arguments, environment and standard input as one line of JSON.

use std::io::Read;

use efarun_tests::echo::Echo;
use efarun_tests::fixture;

fn main() {
    let mut stdin = Vec::new();
    std::io::stdin().read_to_end(&mut stdin).expect("standard input is readable");
    let echo = Echo::of_this_process(fixture::rank(), stdin);
    fixture::say(&serde_json::to_string(&echo).expect("a report is JSON"));
}
