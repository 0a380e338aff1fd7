//! What a module is made of: machine code where there is some for the device, else PTX.
//!
//! Pure. PTX runs on every device from the one on that it is for, but the driver compiles it first, which takes seconds; it keeps the
//! result in the user's cache, which a fresh machine or container has not. Machine code runs on the devices of one major number, from
//! a minor one on.

/// The code of a module.
#[derive(Clone, Copy, Debug)]
pub struct Code {
    /// For all other devices, as zlib packs it.
    pub packed_ptx: &'static [u8],
    /// For some devices.
    pub machine_codes: &'static [MachineCode],
}

/// Machine code for some devices.
#[derive(Clone, Copy, Debug)]
pub struct MachineCode {
    /// Of the devices that it is for: which compute capability they have, or a higher minor number.
    pub compute_capability: (u32, u32),
    /// Whether each kernel begins with the wait for the one in front of it (`griddepcontrol.wait`).
    pub waits: bool,
    /// As zlib packs it.
    pub packed: &'static [u8],
}

impl Code {
    /// The text of the PTX.
    ///
    /// # Panics
    ///
    /// When it is not what zlib packed, or no text.
    pub fn ptx(&self) -> String {
        String::from_utf8(unpacked(self.packed_ptx)).expect("PTX is text")
    }

    /// What runs on a device of this compute capability without being compiled.
    pub(crate) fn for_device(&self, (major, minor): (u32, u32)) -> Option<&MachineCode> {
        let fits = |code: &&MachineCode| {
            let (for_major, for_minor) = code.compute_capability;
            for_major == major && for_minor <= minor
        };
        self.machine_codes.iter().filter(fits).max_by_key(|code| code.compute_capability)
    }
}

impl MachineCode {
    /// The ELF file that the driver takes.
    ///
    /// # Panics
    ///
    /// When it is not what zlib packed.
    pub(crate) fn unpacked(&self) -> Vec<u8> {
        unpacked(self.packed)
    }
}

fn unpacked(packed: &[u8]) -> Vec<u8> {
    miniz_oxide::inflate::decompress_to_vec_zlib(packed).expect("it is what scripts/kernels packed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_code_is_taken_by_devices_that_it_runs_on() {
        const fn code(compute_capability: (u32, u32)) -> MachineCode {
            MachineCode { compute_capability, waits: false, packed: &[] }
        }
        const CODES: &[MachineCode] = &[code((8, 0)), code((8, 6)), code((9, 0))];
        let code = Code { packed_ptx: &[], machine_codes: CODES };
        let taken = |device| code.for_device(device).map(|code| code.compute_capability);
        assert_eq!(taken((8, 0)), Some((8, 0)));
        assert_eq!((taken((8, 6)), taken((8, 9))), (Some((8, 6)), Some((8, 6))));
        assert_eq!(taken((9, 0)), Some((9, 0)));
        assert_eq!((taken((7, 5)), taken((10, 0)), taken((12, 0))), (None, None, None));
    }
}
