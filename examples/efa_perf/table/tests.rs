//! The table, character by character where other tools read it.

use super::*;
use crate::bound::KnownLink;
use crate::measure::percentile::Percentiles;
use crate::report::tests::{config, report, row as plain_row};

fn table(report: &Report) -> String {
    let rows = report.results.iter().map(|result| row(&report.config, result));
    header(&report.config) + &rows.collect::<String>() + &footer(report)
}

/// The captions and rows alone.
fn body(report: &Report) -> String {
    let is_body = |line: &&str| !line.starts_with('#') || line.starts_with("#  ");
    let text = table(report);
    let lines: Vec<&str> = text.lines().filter(is_body).filter(|line| !line.contains("rank 0: ")).collect();
    lines.join("\n")
}

fn shape(collective: &'static str, count: u64, redop: &str, root: i64) -> Row {
    Row { collective, count, redop: redop.to_owned(), root, ..plain_row(Some(0)) }
}

#[test]
fn table_is_that_of_nccl_tests() {
    let expected = "\
# efa-perf version 0.1.0
# Collective test starting: all_reduce
# minBytes 8 maxBytes 1048576 step: 2(factor) warmup iters: 1 iters: 20 validation: 1 algo: ring
#
# 4 ranks on 2 nodes
#  rank 0: shm to 1 peer
#  rank 0: tcp (libfabric 1.17) to 2 peers
#
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw  #wrong     time   algbw   busbw  #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)             (us)  (GB/s)  (GB/s)        
     1048576        262144     float     sum      -1  1000.00    1.05    1.57       2  2000.00    0.52    0.79       0
     1048576        262144     float     sum      -1  1000.00    1.05    1.57     N/A  2000.00    0.52    0.79       0
# Out of bounds values : 2 FAILED
# Avg bus bandwidth    : 1.17965 
#
# Collective test concluded: all_reduce
";
    assert_eq!(table(&report()), expected);
}

#[test]
fn rows_of_every_operation_have_nccl_tests_columns() {
    let barrier =
        Row { size_bytes: 0, element: "none".to_owned(), in_place: None, ..shape("barrier", 0, "none", -1) };
    let rows = [
        (shape("all_reduce", 262144, "max", -1), "262144     float     max      -1  1000.00"),
        (shape("broadcast", 262144, "none", 3), "262144     float    none       3  1000.00"),
        (shape("reduce", 262144, "sum", 0), "262144     float     sum       0  1000.00"),
        (shape("all_gather", 65536, "none", -1), "65536     float    none      -1  1000.00"),
        (shape("reduce_scatter", 65536, "prod", -1), "65536     float    prod      -1  1000.00"),
        (barrier, "0      none    none      -1  1000.00"),
    ];
    for (result, part) in rows {
        let text = row(&config("x"), &result);
        assert!(text.contains(part), "{text}");
        assert_eq!(text.split_whitespace().count(), 13, "{text}");
        assert_eq!(text.len(), WIDTH + 1, "{text}");
    }
}

#[test]
fn a_barrier_has_no_second_half() {
    let text = row(&config("barrier"), &Row { in_place: None, ..plain_row(Some(0)) });
    assert!(text.ends_with("       0      N/A     N/A     N/A     N/A\n"), "{text}");
}

#[test]
fn what_is_asked_for_beyond_stands_to_the_right_of_the_same_columns() {
    let percentiles = Percentiles { p50: 900e-6, p99: 1.5e-3 };
    let mut result = plain_row(Some(0));
    result.set_bound(250.0);
    result.out_of_place = result.out_of_place.with_percentiles(Some(percentiles));
    let plain = Report::new(config("all_reduce"), vec![result.clone()]);
    let mut config = config("all_reduce");
    (config.shows_percentiles, config.shows_bound) = (true, true);
    let wide = Report::new(config, vec![result]);
    let expected = "\
#  p50, p99: of 20 calls, each the mean over ranks
#  bound: none in a world of one rank
#                                                              out-of-place                       in-place                  out-of-place          in-place           out-of-place      in-place
#       size         count      type   redop    root     time   algbw   busbw  #wrong     time   algbw   busbw  #wrong      p50      p99      p50      p99    bound       reached       reached
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)             (us)  (GB/s)  (GB/s)             (us)     (us)     (us)     (us)     (us)           (%)           (%)
     1048576        262144     float     sum      -1  1000.00    1.05    1.57       0  2000.00    0.52    0.79       0   900.00  1500.00      N/A      N/A   250.00          25.0          12.5";
    assert_eq!(body(&wide), expected);
    for (narrow, wide) in body(&plain).lines().skip(1).zip(body(&wide).lines().skip(3)) {
        assert!(wide.starts_with(narrow), "{narrow}\n{wide}");
    }
}

#[test]
fn header_says_where_the_bound_is_from() {
    let mut config = config("all_reduce");
    config.shows_bound = true;
    config.rotate = Some("as many buffers".to_owned());
    let given = crate::bound::GivenLink { gbit_per_s: Some(100.0), latency_us: Some(15.0) };
    let ((bandwidth, of_bandwidth), (latency_us, of_latency)) =
        (given.bandwidth().unwrap(), given.latency().unwrap());
    config.link = Some(KnownLink::new(bandwidth, latency_us, vec![of_bandwidth, of_latency]));
    let text = header(&config);
    for line in [
        "#  rotate: as many buffers\n",
        "#  bound: bandwidth 12.50 GB/s each way (100 Gb/s), given\n",
        "#  bound: latency 15 us, given\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn numbers_give_up_decimals_before_they_leave_their_column() {
    assert_eq!(fitted(5.0, 7), "   5.00");
    assert_eq!(fitted(9999.99, 7), "9999.99");
    assert_eq!(fitted(12345.67, 7), "12345.7");
    assert_eq!(fitted(123_456.7, 7), " 123457");
    assert_eq!(fitted(12_345_678.0, 7), "    1e7");
    assert_eq!(fitted(330.8, 6), "330.80");
    assert_eq!(fitted(3300.84, 6), "3300.8");
}

#[test]
fn average_has_six_significant_digits() {
    assert_eq!(six_digits(0.0), "0");
    assert_eq!(six_digits(18.99741), "18.9974");
    assert_eq!(six_digits(232.1), "232.1");
    assert_eq!(six_digits(0.012345678), "0.01235");
    assert_eq!(six_digits(1234567.0), "1234567");
}

#[test]
fn wrong_elements_fail_the_verdict_and_none_are_ok() {
    let mut report = report();
    assert!(footer(&report).contains("# Out of bounds values : 2 FAILED\n"));
    report.out_of_bounds = 0;
    assert!(footer(&report).contains("# Out of bounds values : 0 OK\n"));
}
