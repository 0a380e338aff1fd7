//! Why a program's file cannot be started, as its node sees it.
//!
//! Given the file and the error of `execve`, [`describe`] looks at the file and says what is wrong with it, in words that fit
//! behind its path in brackets. It runs after the failure, and only reads.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statvfs::{FsFlags, statvfs};
use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, pod};

/// Says what is wrong with a file; nothing, where the error says all.
pub(super) fn describe(path: &Path, errno: Errno) -> Option<String> {
    let metadata = path.metadata().ok()?;
    if metadata.is_dir() {
        return Some("a folder".to_owned());
    }
    match errno {
        Errno::EACCES if metadata.mode() & 0o111 == 0 => {
            Some(format!("not executable, its mode is {:o}", metadata.permissions().mode() & 0o7777))
        }
        Errno::EACCES if is_noexec(path) => Some("on a file system that is mounted noexec".to_owned()),
        Errno::EACCES | Errno::ENOENT => interpreter_fault(&head_of(path)?),
        Errno::ENOEXEC if metadata.len() == 0 => Some("an empty file".to_owned()),
        Errno::ENOEXEC => Some(format_fault(&head_of(path)?)),
        _ => None,
    }
}

fn is_noexec(path: &Path) -> bool {
    statvfs(path).is_ok_and(|file_system| file_system.flags().contains(FsFlags::ST_NOEXEC))
}

/// What a script's first line, or a program's header, asks for, and why that is of no use.
fn interpreter_fault(head: &[u8]) -> Option<String> {
    let (kind, interpreter) = match interpreter_of_script(head) {
        Some(interpreter) => ("a script for", interpreter),
        None => ("a program for the loader", loader_of(head)?),
    };
    let shown = interpreter.display();
    match interpreter.metadata() {
        Err(_) if interpreter.as_os_str().as_bytes().ends_with(b"\r") => {
            Some(format!("{kind} `{}\\r`: its lines end as on Windows", shown.to_string().trim_end()))
        }
        Err(_) => Some(format!("{kind} {shown}, which is not there")),
        Ok(metadata) if metadata.is_dir() => Some(format!("{kind} {shown}, which is a folder")),
        Ok(_) => Some(format!("{kind} {shown}, which this user may not execute")),
    }
}

fn interpreter_of_script(head: &[u8]) -> Option<PathBuf> {
    let line = head.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let word = line.trim_ascii_start().split(|byte| matches!(byte, b' ' | b'\t')).next()?;
    Some(std::ffi::OsStr::from_bytes(word).into())
}

/// The dynamic loader that a program names.
fn loader_of(head: &[u8]) -> Option<PathBuf> {
    fn named<Header: FileHeader<Endian = Endianness>>(head: &[u8]) -> Option<PathBuf> {
        let header = Header::parse(head).ok()?;
        let endian = header.endian().ok()?;
        let programs = header.program_headers(endian, head).ok()?;
        let name = programs.iter().find_map(|program| program.interpreter(endian, head).ok().flatten())?;
        Some(std::ffi::OsStr::from_bytes(name).into())
    }
    named::<FileHeader64<Endianness>>(head).or_else(|| named::<FileHeader32<Endianness>>(head))
}

/// What a file is that the kernel does not know how to start.
fn format_fault(head: &[u8]) -> String {
    let here = std::env::consts::ARCH;
    match machine_of(head) {
        Some(machine) if machine != here => format!("a program for {machine}, on a host that is {here}"),
        Some(_) => "a program that is damaged or cut short".to_owned(),
        None if head.starts_with(b"#!") => "a script whose `#!` line names no program".to_owned(),
        None => "neither a program of Linux nor a script with a `#!` line".to_owned(),
    }
}

/// The machine that a program is for, as `uname -m` calls it.
fn machine_of(head: &[u8]) -> Option<String> {
    // Both kinds of header have the machine in the same place.
    let (header, _) = pod::from_bytes::<FileHeader32<Endianness>>(head).ok()?;
    if !head.starts_with(&elf::ELFMAG) {
        return None;
    }
    let machine = header.e_machine.get(header.endian().unwrap_or(Endianness::Little));
    Some(match machine {
        elf::EM_X86_64 => "x86_64".to_owned(),
        elf::EM_AARCH64 => "aarch64".to_owned(),
        elf::EM_386 => "x86".to_owned(),
        elf::EM_ARM => "arm".to_owned(),
        elf::EM_RISCV => "riscv64".to_owned(),
        elf::EM_PPC64 => "powerpc64".to_owned(),
        elf::EM_S390 => "s390x".to_owned(),
        other => format!("machine {} of the ELF standard", other.0),
    })
}

fn head_of(path: &Path) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path).ok()?.take(HEAD_BYTES).read_to_end(&mut head).ok()?;
    Some(head)
}

/// Headers and the loader's name lie at a program's beginning.
const HEAD_BYTES: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn described(content: &[u8], mode: u32, errno: Errno) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        describe(&path, errno)
    }

    fn own_program() -> Vec<u8> {
        std::fs::read("/proc/self/exe").unwrap()[..HEAD_BYTES as usize].to_vec()
    }

    #[test]
    fn a_program_for_another_machine_is_named_with_both() {
        let mut program = own_program();
        let other = if cfg!(target_arch = "x86_64") { elf::EM_AARCH64 } else { elf::EM_X86_64 };
        program[18..20].copy_from_slice(&other.0.to_le_bytes());
        let here = std::env::consts::ARCH;
        let there = if here == "x86_64" { "aarch64" } else { "x86_64" };
        let expected = format!("a program for {there}, on a host that is {here}");
        assert_eq!(described(&program, 0o755, Errno::ENOEXEC), Some(expected));
    }

    #[test]
    fn the_loader_that_a_program_names_is_found() {
        let mut program = own_program();
        let loader = loader_of(&program).unwrap();
        assert!(loader.exists(), "{}", loader.display());
        let name = loader.as_os_str().as_bytes();
        let at = program.windows(name.len()).position(|window| window == name).unwrap();
        program[at + 1] = b'X';
        let fault = described(&program, 0o755, Errno::ENOENT).unwrap();
        assert!(
            fault.starts_with("a program for the loader /X") && fault.ends_with(", which is not there"),
            "{fault}"
        );
    }

    #[test]
    fn what_is_no_program_is_described() {
        let cases: [(&[u8], u32, Errno, &str); 7] = [
            (
                b"#!/no/such/shell -e\nx",
                0o755,
                Errno::ENOENT,
                "a script for /no/such/shell, which is not there",
            ),
            (
                b"#!/bin/sh\r\nx",
                0o755,
                Errno::ENOENT,
                "a script for `/bin/sh\\r`: its lines end as on Windows",
            ),
            (b"#! /tmp\nx", 0o755, Errno::EACCES, "a script for /tmp, which is a folder"),
            (b"x", 0o644, Errno::EACCES, "not executable, its mode is 644"),
            (b"", 0o755, Errno::ENOEXEC, "an empty file"),
            (b"echo x", 0o755, Errno::ENOEXEC, "neither a program of Linux nor a script with a `#!` line"),
            (
                &[0x7f, b'E', b'L', b'F'],
                0o755,
                Errno::ENOEXEC,
                "neither a program of Linux nor a script with a `#!` line",
            ),
        ];
        for (content, mode, errno, fault) in cases {
            assert_eq!(described(content, mode, errno).as_deref(), Some(fault), "{content:?}");
        }
        assert_eq!(describe(Path::new("/tmp"), Errno::EACCES).as_deref(), Some("a folder"));
        assert_eq!(describe(Path::new("/no/such"), Errno::ENOENT), None);
    }
}
