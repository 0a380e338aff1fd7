//! Whether a descriptor is a dma-buf, and how long that is: what the kernel checks before a card is told of one.

use std::io;
use std::os::fd::RawFd;

use nix::errno::Errno;

/// How long a dma-buf is.
///
/// # Errors
///
/// `EBADF` when nothing is open there, `EINVAL` when it is something else.
pub fn len_bytes(fd: RawFd) -> Result<u64, Errno> {
    let path = format!("/proc/self/fdinfo/{fd}");
    let info = std::fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Errno::EBADF,
        _ => Errno::EINVAL,
    })?;
    parse(&info).ok_or(Errno::EINVAL)
}

/// Only the kernel's dma-bufs tell who exported them.
fn parse(info: &str) -> Option<u64> {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    field("exp_name:")?;
    field("size:")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn kernels_words_about_a_dma_buf_are_understood() {
        let info = "pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t1059\nsize:\t2097152\ncount:\t2\nexp_name:\tnvidia\n";
        assert_eq!(parse(info), Some(2_097_152));
    }

    #[test]
    fn other_descriptors_are_refused_as_the_kernel_does() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(len_bytes(file.as_raw_fd()), Err(Errno::EINVAL));
        assert_eq!(len_bytes(1_000_000), Err(Errno::EBADF));
    }
}
