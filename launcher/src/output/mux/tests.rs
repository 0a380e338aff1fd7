use super::*;

/// What a merger wrote: standard output, standard error.
fn written(
    tag: bool,
    drive: impl FnOnce(&mut OutputMux<&mut Vec<u8>, &mut Vec<u8>>, Instant),
) -> (String, String) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut mux =
        OutputMux::new(LineStyle { tag, ..LineStyle::default() }, Terminal::new(&mut stdout, &mut stderr));
    drive(&mut mux, Instant::now());
    (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn lines_of_two_ranks_are_never_mixed() {
    let (stdout, _) = written(false, |mux, now| {
        mux.push(Rank(0), Stream::Stdout, b"one ", now);
        mux.push(Rank(1), Stream::Stdout, b"two\nthr", now);
        mux.push(Rank(0), Stream::Stdout, b"more\n", now);
        mux.push(Rank(1), Stream::Stdout, b"ee\n", now);
    });
    assert_eq!(stdout, "two\none more\nthree\n");
}

#[test]
fn tags_are_open_mpis() {
    // What mpirun 4.1.8 --tag-output writes for the same whole lines.
    let (stdout, stderr) = written(true, |mux, now| {
        mux.push(Rank(0), Stream::Stdout, b"\n\nx\n", now);
        mux.push(Rank(12), Stream::Stderr, b"oops\n", now);
        mux.push(Rank(1), Stream::Stdout, b"no-end", now);
        mux.push(Rank(1), Stream::Stdout, b"", now);
    });
    assert_eq!(stdout, "[1,0]<stdout>:\n[1,0]<stdout>:\n[1,0]<stdout>:x\n[1,1]<stdout>:no-end");
    assert_eq!(stderr, "[1,12]<stderr>:oops\n");
}

#[test]
fn unfinished_line_is_shown_when_it_is_old_enough_and_not_before() {
    let (stdout, _) = written(false, |mux, now| {
        mux.push(Rank(0), Stream::Stdout, b"name? ", now);
        assert_eq!(mux.next_tick(), Some(now + PARTIAL_LINE_AGE));
        mux.tick(now + PARTIAL_LINE_AGE / 2);
        mux.push(Rank(1), Stream::Stdout, b"first\n", now);
        mux.tick(now + PARTIAL_LINE_AGE);
        assert_eq!(mux.next_tick(), None);
    });
    assert_eq!(stdout, "first\nname? ");
}

#[test]
fn shown_line_that_goes_on_is_tagged_once_and_ended_when_another_rank_writes() {
    let (stdout, _) = written(true, |mux, now| {
        let later = now + PARTIAL_LINE_AGE;
        mux.push(Rank(0), Stream::Stdout, b"10%", now);
        mux.tick(later);
        mux.push(Rank(0), Stream::Stdout, b" 20%", later);
        mux.tick(later + PARTIAL_LINE_AGE);
        mux.push(Rank(1), Stream::Stdout, b"hello\n", later);
        mux.push(Rank(0), Stream::Stdout, b" 30%\n", later);
    });
    assert_eq!(stdout, "[1,0]<stdout>:10% 20%\n[1,1]<stdout>:hello\n[1,0]<stdout>: 30%\n");
}

#[test]
fn bytes_of_a_rank_that_writes_alone_pass_unchanged() {
    let sent: Vec<u8> =
        (0..=255).cycle().filter(|byte| *byte != b'\n').take(300_000).chain([0, 0xff]).collect();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut mux = OutputMux::new(LineStyle::default(), Terminal::new(&mut stdout, &mut stderr));
    let now = Instant::now();
    for chunk in sent.chunks(1000) {
        mux.push(Rank(0), Stream::Stdout, chunk, now);
    }
    mux.finish();
    drop(mux);
    assert!(stdout == sent);
}

#[test]
fn line_that_is_too_long_to_keep_is_passed_on_in_parts() {
    let (stdout, _) = written(false, |mux, now| {
        mux.push(Rank(0), Stream::Stdout, &[b'x'; LONGEST], now);
        assert_eq!(mux.next_tick(), None);
        mux.push(Rank(0), Stream::Stdout, b"y\n", now);
    });
    assert_eq!(stdout.len(), LONGEST + 2);
    assert!(stdout.ends_with("xy\n"));
}

#[test]
fn stderr_tail_keeps_the_last_lines_and_no_escape_sequences() {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut mux = OutputMux::new(LineStyle::default(), Terminal::new(&mut stdout, &mut stderr));
    let now = Instant::now();
    for number in 0..50 {
        mux.push(Rank(2), Stream::Stderr, format!("line {number}\n").as_bytes(), now);
    }
    mux.push(Rank(2), Stream::Stderr, b"\x1b[31mbad ", now);
    mux.push(Rank(2), Stream::Stderr, b"pointer", now);
    let tail = mux.stderr_tail(Rank(2));
    assert_eq!(tail.len(), 10);
    assert_eq!(tail[0], "line 41");
    assert_eq!(tail[9], "[31mbad pointer");
    assert!(mux.stderr_tail(Rank(0)).is_empty());
}

#[test]
fn stderr_tail_is_bounded_whatever_a_rank_writes() {
    let mut tail = Tail::default();
    for _ in 0..100 {
        tail.push(&[b'z'; 100_000]);
        tail.push(&[b'\n'; 100_000]);
    }
    assert!(tail.lines.len() <= TAIL_LINES + 1);
    assert!(tail.lines.iter().all(|line| line.len() <= TAIL_LINE_BYTES));
}

const LONGEST: usize = super::super::LONGEST_LINE_BYTES;
