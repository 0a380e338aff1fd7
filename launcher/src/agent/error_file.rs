//! The file to which a rank writes why it failed, by PyTorch's convention, where the job is not torchrun's.
//!
//! `torch.distributed.elastic.multiprocessing.errors.record` writes the exception that ends a program to the file that
//! TORCHELASTIC_ERROR_FILE names. A rank for which nobody has named one gets a file in this agent's memory, which is gone
//! with the agent. What is in it is untrusted: it is bounded here, and read by the head.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;

use efarun_wire::torchrun::MAX_ERROR_FILE_BYTES;
use nix::sys::memfd::{MFdFlags, memfd_create};

/// A rank's error file in memory.
#[derive(Debug)]
pub(super) struct ErrorFile(File);

impl ErrorFile {
    /// Makes one, and names it in the rank's environment. None where the environment names another, or none can be made.
    pub(super) fn for_rank(env: &mut Vec<(Vec<u8>, Vec<u8>)>) -> Option<ErrorFile> {
        if env.iter().any(|(name, _)| name == VARIABLE) {
            return None;
        }
        let file = File::from(memfd_create(c"efarun-error", MFdFlags::MFD_CLOEXEC).ok()?);
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        env.push((VARIABLE.to_vec(), path.into_bytes()));
        Some(ErrorFile(file))
    }

    /// Gives what the rank has written; none if that is nothing.
    pub(super) fn read(&mut self) -> Option<Vec<u8>> {
        self.0.rewind().ok()?;
        let mut bytes = Vec::new();
        (&self.0).take(MAX_ERROR_FILE_BYTES as u64).read_to_end(&mut bytes).ok()?;
        (!bytes.is_empty()).then_some(bytes)
    }
}

const VARIABLE: &[u8] = b"TORCHELASTIC_ERROR_FILE";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_to_the_path_is_read_back() {
        let mut env = vec![(b"A".to_vec(), b"b".to_vec())];
        let mut file = ErrorFile::for_rank(&mut env).unwrap();
        assert_eq!(file.read(), None);
        std::fs::write(std::str::from_utf8(&env[1].1).unwrap(), "boom").unwrap();
        assert_eq!(file.read(), Some(b"boom".to_vec()));
        assert!(ErrorFile::for_rank(&mut env).is_none() && env.len() == 2, "one is named already");
    }
}
