//! What an agent makes for ranks that were started by a line of torchrun's: folders, and the ways of their streams.

use serde::{Deserialize, Serialize};

/// The files that a node's ranks have there, in torchrun's folders:
/// `FOLDER/RUN_FOLDER/attempt_N/LOCAL_RANK/{stdout.log,stderr.log,error.json}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankFolders {
    /// The folder that the user named, relative to that in which ranks start; none means a temporary one.
    pub folder: Option<Vec<u8>>,
    /// The run's own folder in it, which is this job's and this node's alone.
    pub run_folder: String,
    /// Which start of the group this is, from 0.
    pub attempt: u32,
    /// Where streams go, in order of local rank.
    pub ways: Vec<StreamWays>,
}

/// Where a rank's two streams go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamWays {
    /// Standard output's way.
    pub stdout: StreamWay,
    /// Standard error's way.
    pub stderr: StreamWay,
}

/// Where a stream goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamWay {
    /// To whoever shows it.
    Shown,
    /// Into its file.
    File,
    /// Into its file, and shown with this before each line.
    Both {
        /// What stands before each line.
        prefix: Vec<u8>,
    },
    /// Nowhere.
    Nowhere,
}

impl RankFolders {
    /// Says whether a stream of any rank goes into a file: then the folder stays when the job is over.
    pub fn has_logs(&self) -> bool {
        let is_file = |way: &StreamWay| matches!(way, StreamWay::File | StreamWay::Both { .. });
        self.ways.iter().any(|ways| is_file(&ways.stdout) || is_file(&ways.stderr))
    }
}

/// The most of an error file that an agent passes on.
pub const MAX_ERROR_FILE_BYTES: usize = 64 << 10;
