//! Results as data: what a run measured, and its form as JSON.
//!
//! Field names are a promise to scripts: one is added, never renamed.

use serde::Serialize;

use crate::bound::KnownLink;
use crate::measure::percentile::Percentiles;

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Report {
    /// What ran, on what.
    pub(crate) config: Config,
    /// One per size, type, reduction and root, in the order of measuring.
    pub(crate) results: Vec<Row>,
    /// Wrong elements and broken guards, over all ranks and rows.
    pub(crate) out_of_bounds: u64,
    /// Mean busbw over all rows and both halves, in GB/s.
    pub(crate) avg_bus_bw_gbps: f64,
}

/// What ran, on what.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Config {
    /// efarun's version.
    pub(crate) version: &'static str,
    /// The collective; `all` of several.
    pub(crate) collective: &'static str,
    /// `--algo`.
    pub(crate) algo: String,
    /// Nodes of the world.
    pub(crate) nodes: u32,
    /// World size.
    pub(crate) ranks: u32,
    /// What rank 0 reaches the others by, a line per transport.
    pub(crate) transports: Vec<String>,
    /// `-b`.
    pub(crate) min_bytes: u64,
    /// `-e`.
    pub(crate) max_bytes: u64,
    /// `-i`, where sizes grow by steps.
    pub(crate) step_bytes: Option<u64>,
    /// `-f`, where sizes grow by a factor.
    pub(crate) step_factor: Option<u64>,
    /// `-w`.
    pub(crate) warmup_iters: u32,
    /// `-n`.
    pub(crate) iters: u32,
    /// `-c`.
    pub(crate) check_iters: u32,
    /// `-a`: which rank's times are reported, or what of all.
    pub(crate) average: String,
    /// `--rotate`: how buffers are taken in turn, where it was asked for.
    pub(crate) rotate: Option<String>,
    /// `--arena`: what the buffers are, where it was asked for.
    pub(crate) buffers: Option<String>,
    /// Whether the table has columns for percentiles.
    #[serde(skip)]
    pub(crate) shows_percentiles: bool,
    /// `--bound`: the link that bounds the run; none in a world of one.
    pub(crate) link: Option<KnownLink>,
    /// Whether the table has columns for the bound.
    #[serde(skip)]
    pub(crate) shows_bound: bool,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    /// The collective.
    pub(crate) collective: &'static str,
    /// Bytes of the call's larger side.
    pub(crate) size_bytes: u64,
    /// Elements: of a rank's chunk, where there are chunks.
    pub(crate) count: u64,
    /// Element type, by nccl-tests' name.
    #[serde(rename = "type")]
    pub(crate) element: String,
    /// Reduction; `none` where the collective has none.
    pub(crate) redop: String,
    /// Root rank; -1 where the collective has none.
    pub(crate) root: i64,
    /// Input and output apart.
    pub(crate) out_of_place: Sample,
    /// Output over the input; a barrier has neither.
    pub(crate) in_place: Option<Sample>,
    /// The least time that a call can take, in microseconds.
    #[serde(rename = "bound_us")]
    pub(crate) bound: Option<f64>,
}

/// One half of a line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Sample {
    /// One call, in microseconds: the mean.
    pub(crate) time_us: f64,
    /// Bytes by time, in GB/s.
    pub(crate) alg_bw_gbps: f64,
    /// algbw by the collective's factor, in GB/s.
    pub(crate) bus_bw_gbps: f64,
    /// Wrong elements over all ranks; none where nothing was checked.
    pub(crate) wrong: Option<u64>,
    /// Half of the calls took no longer, in microseconds.
    pub(crate) p50_us: Option<f64>,
    /// Of 100 calls 99 took no longer, in microseconds.
    pub(crate) p99_us: Option<f64>,
    /// The bound by the time: 1 is all that the link can do.
    pub(crate) bound_fraction: Option<f64>,
}

impl Sample {
    /// What a call of this time means. `bus_factor` is busbw over algbw.
    pub(crate) fn new(size_bytes: u64, seconds: f64, bus_factor: f64) -> Self {
        let alg_bw_gbps = if seconds > 0.0 { size_bytes as f64 / 1e9 / seconds } else { 0.0 };
        Sample {
            time_us: seconds * 1e6,
            alg_bw_gbps,
            bus_bw_gbps: alg_bw_gbps * bus_factor,
            wrong: None,
            p50_us: None,
            p99_us: None,
            bound_fraction: None,
        }
    }

    /// With what single calls took, in seconds.
    pub(crate) fn with_percentiles(self, percentiles: Option<Percentiles>) -> Self {
        let us = |seconds: f64| seconds * 1e6;
        Sample { p50_us: percentiles.map(|of| us(of.p50)), p99_us: percentiles.map(|of| us(of.p99)), ..self }
    }

    /// With the wrong elements that were counted, if any were looked for.
    pub(crate) fn with_wrong(self, wrong: Option<u64>) -> Self {
        Sample { wrong, ..self }
    }
}

impl Row {
    /// Sets the least time of a call, and what fraction of it was reached.
    pub(crate) fn set_bound(&mut self, bound_us: f64) {
        self.bound = Some(bound_us);
        for half in [Some(&mut self.out_of_place), self.in_place.as_mut()].into_iter().flatten() {
            half.bound_fraction = Some(if half.time_us > 0.0 { bound_us / half.time_us } else { 0.0 });
        }
    }

    /// Its halves.
    pub(crate) fn halves(&self) -> impl Iterator<Item = Sample> {
        [Some(self.out_of_place), self.in_place].into_iter().flatten()
    }
}

impl Report {
    /// Sums rows up.
    pub(crate) fn new(config: Config, results: Vec<Row>) -> Self {
        let halves = || results.iter().flat_map(Row::halves);
        let out_of_bounds = halves().filter_map(|half| half.wrong).sum();
        let avg_bus_bw_gbps =
            halves().map(|half| half.bus_bw_gbps).sum::<f64>() / halves().count().max(1) as f64;
        Report { config, results, out_of_bounds, avg_bus_bw_gbps }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn config(collective: &'static str) -> Config {
        Config {
            version: "0.1.0",
            collective,
            algo: "ring".to_owned(),
            nodes: 2,
            ranks: 4,
            transports: vec!["shm to 1 peer".to_owned(), "tcp (libfabric 1.17) to 2 peers".to_owned()],
            min_bytes: 8,
            max_bytes: 1 << 20,
            step_bytes: None,
            step_factor: Some(2),
            warmup_iters: 1,
            iters: 20,
            check_iters: 1,
            average: "the mean over ranks".to_owned(),
            rotate: None,
            buffers: None,
            shows_percentiles: false,
            link: None,
            shows_bound: false,
        }
    }

    pub(crate) fn row(wrong: Option<u64>) -> Row {
        let half = |seconds, wrong| Sample::new(1 << 20, seconds, 1.5).with_wrong(wrong);
        Row {
            collective: "all_reduce",
            size_bytes: 1 << 20,
            count: 1 << 18,
            element: "float".to_owned(),
            redop: "sum".to_owned(),
            root: -1,
            out_of_place: half(1e-3, wrong),
            in_place: Some(half(2e-3, Some(0))),
            bound: None,
        }
    }

    pub(crate) fn report() -> Report {
        Report::new(config("all_reduce"), vec![row(Some(2)), row(None)])
    }

    #[test]
    fn bandwidth_is_bytes_by_time_and_bus_bandwidth_its_multiple() {
        let sample = Sample::new(1_000_000, 1e-3, 1.75);
        assert!((sample.time_us - 1000.0).abs() < 1e-9);
        assert!((sample.alg_bw_gbps - 1.0).abs() < 1e-9);
        assert!((sample.bus_bw_gbps - 1.75).abs() < 1e-9);
    }

    #[test]
    fn report_sums_wrong_elements_and_averages_both_halves() {
        let report = report();
        assert_eq!(report.out_of_bounds, 2);
        let bytes = f64::from(1 << 20);
        assert!((report.avg_bus_bw_gbps - 1.5 * bytes / 1e9 * (1000.0 + 500.0) / 2.0).abs() < 1e-9);
    }

    #[test]
    fn halves_that_do_not_exist_are_not_averaged() {
        let mut row = row(Some(3));
        row.in_place = None;
        let report = Report::new(config("all_reduce"), vec![row.clone()]);
        assert_eq!(report.out_of_bounds, 3);
        assert_eq!(report.avg_bus_bw_gbps, row.out_of_place.bus_bw_gbps);
    }

    #[test]
    fn fraction_is_the_bound_by_the_time() {
        let mut row = row(None);
        row.set_bound(500.0);
        assert_eq!(row.out_of_place.bound_fraction, Some(0.5));
        assert_eq!(row.in_place.unwrap().bound_fraction, Some(0.25));
    }

    #[test]
    fn json_names_what_scripts_look_for() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["results"][0]["type"], "float");
        assert_eq!(json["results"][0]["collective"], "all_reduce");
        assert_eq!(json["results"][0]["out_of_place"]["wrong"], 2);
        assert!(json["results"][1]["out_of_place"]["wrong"].is_null());
        assert!(json["results"][1]["out_of_place"]["p99_us"].is_null());
        assert!(json["results"][1]["bound_us"].is_null());
        assert_eq!(json["config"]["ranks"], 4);
        assert_eq!(json["out_of_bounds"], 2);
    }
}
