//! Results as text: nccl-tests' header, columns and footer, so that what reads its output reads ours.
//!
//! Pure. Numbers keep their column's width and give up decimals for it, as in nccl-tests 2.19.

use crate::report::{Config, Report, Row, Sample};

/// Everything above the first row.
pub(crate) fn header(config: &Config) -> String {
    let step = match (config.step_factor, config.step_bytes) {
        (Some(factor), _) => format!("{factor}(factor)"),
        (None, step) => format!("{}(bytes)", step.unwrap_or_default()),
    };
    let mut lines = vec![
        format!("# efa-perf version {}", config.version),
        format!("# Collective test starting: {}", config.collective),
        format!(
            "# minBytes {} maxBytes {} step: {step} warmup iters: {} iters: {} validation: {} algo: {}",
            config.min_bytes,
            config.max_bytes,
            config.warmup_iters,
            config.iters,
            config.check_iters,
            config.algo
        ),
        "#".to_owned(),
        format!("# {} on {}", counted(config.ranks, "rank"), counted(config.nodes, "node")),
    ];
    lines.extend(config.transports.iter().map(|line| format!("#  rank 0: {line}")));
    lines.push("#".to_owned());
    lines.push(format!(
        "# {:10}  {:12}  {:8}  {:6}  {:6}{:>23}{:>31}",
        "", "", "", "", "", "out-of-place", "in-place"
    ));
    lines.push(captions(["size", "count", "type", "redop", "root"], ["time", "algbw", "busbw", "#wrong"]));
    lines.push(captions(["(B)", "(elements)", "", "", ""], ["(us)", "(GB/s)", "(GB/s)", ""]));
    lines.join("\n") + "\n"
}

/// One row.
pub(crate) fn row(row: &Row) -> String {
    format!(
        "{:>12}  {:>12}  {:>8}  {:>6}  {:>6}{}{}\n",
        row.size_bytes,
        row.count,
        row.element,
        row.redop,
        row.root,
        half(row.out_of_place),
        half(row.in_place)
    )
}

/// Everything below the last row.
pub(crate) fn footer(report: &Report) -> String {
    let verdict = if report.out_of_bounds == 0 { "OK" } else { "FAILED" };
    format!(
        "# Out of bounds values : {} {verdict}\n# Avg bus bandwidth    : {} \n#\n# Collective test concluded: {}\n",
        report.out_of_bounds,
        six_digits(report.avg_bus_bw_gbps),
        report.config.collective
    )
}

fn captions(of_row: [&str; 5], of_half: [&str; 4]) -> String {
    let [size, count, element, redop, root] = of_row;
    let [time, algbw, busbw, wrong] = of_half;
    let half = format!("  {time:>7}  {algbw:>6}  {busbw:>6}  {wrong:>6}");
    format!("# {size:>10}  {count:>12}  {element:>8}  {redop:>6}  {root:>6}{half}{half}")
}

fn half(sample: Sample) -> String {
    let wrong = sample.wrong.map_or_else(|| "N/A".to_owned(), |wrong| wrong.to_string());
    format!(
        "  {}  {}  {}  {wrong:>6}",
        fitted(sample.time_us, 7),
        fitted(sample.alg_bw_gbps, 6),
        fitted(sample.bus_bw_gbps, 6)
    )
}

/// A number in `width` columns, with two decimals while they leave room.
fn fitted(value: f64, width: usize) -> String {
    let texts = [2, 1, 0].map(|decimals| format!("{value:>width$.decimals$}"));
    let scientific = || format!("{value:>width$.0e}");
    texts.into_iter().find(|text| text.len() <= width).unwrap_or_else(scientific)
}

/// A number with six significant digits and no zeros behind the last one that counts.
fn six_digits(value: f64) -> String {
    let whole_digits = if value.abs() >= 1.0 { value.abs().log10().floor() as usize + 1 } else { 1 };
    let text = format!("{value:.*}", 6usize.saturating_sub(whole_digits));
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn counted(count: u32, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn table_is_that_of_nccl_tests() {
        let report = report();
        let text =
            header(&report.config) + &row(&report.results[0]) + &row(&report.results[1]) + &footer(&report);
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
        assert_eq!(text, expected);
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
}
