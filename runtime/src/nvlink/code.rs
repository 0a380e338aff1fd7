//! The kernels' code, as scripts/kernels made it of the sources in `cuda/kernels`.

use super::call::DeviceElement;
use crate::cuda::{Code, MachineCode};
use crate::element::ElementType;

/// The kernels that reduce elements of a type, or those that move bytes.
pub(crate) fn code(element: Option<DeviceElement>) -> &'static Code {
    // Of what is no static every place that asks for it may have a copy.
    macro_rules! code {
        ($name:literal) => {{
            static CODE: Code = Code {
                packed_ptx: include_bytes!(concat!("../cuda/kernels/ptx/", $name, ".zlib")),
                machine_codes: &[
                    MachineCode {
                        compute_capability: (8, 0),
                        waits: false,
                        packed: include_bytes!(concat!("../cuda/kernels/cubin/sm_80/", $name, ".zlib")),
                    },
                    MachineCode {
                        compute_capability: (9, 0),
                        waits: true,
                        packed: include_bytes!(concat!("../cuda/kernels/cubin/sm_90/", $name, ".zlib")),
                    },
                ],
            };
            &CODE
        }};
    }
    let element = match element {
        None => return code!("copy"),
        Some(DeviceElement::F8E4M3) => return code!("f8e4m3"),
        Some(DeviceElement::F8E5M2) => return code!("f8e5m2"),
        Some(DeviceElement::Of(element)) => element,
    };
    match element {
        ElementType::I8 => code!("i8"),
        ElementType::U8 => code!("u8"),
        ElementType::I16 => code!("i16"),
        ElementType::U16 => code!("u16"),
        ElementType::I32 => code!("i32"),
        ElementType::U32 => code!("u32"),
        ElementType::I64 => code!("i64"),
        ElementType::U64 => code!("u64"),
        ElementType::F16 => code!("f16"),
        ElementType::Bf16 => code!("bf16"),
        ElementType::F32 => code!("f32"),
        ElementType::F64 => code!("f64"),
    }
}

#[cfg(test)]
mod tests {
    use object::{Object, ObjectSymbol};

    use super::*;

    /// Of kernels of a module, in PTX.
    fn names(ptx: &str) -> Vec<&str> {
        let after = ptx.split(".visible .entry ").skip(1);
        after.map(|kernel| kernel.split('(').next().expect("a name")).collect()
    }

    #[test]
    fn machine_code_is_for_the_devices_that_are_said_and_has_all_kernels() {
        let elements = DeviceElement::all().map(Some);
        for element in std::iter::once(None).chain(elements) {
            let (ptx, machine_codes) = (code(element).ptx(), code(element).machine_codes);
            assert!(names(&ptx).len() >= 5, "{element:?}");
            for code in machine_codes {
                let unpacked = code.unpacked();
                let file = object::read::elf::ElfFile64::<object::Endianness>::parse(&*unpacked);
                let file = file.expect("an ELF file");
                let header = file.elf_header();
                let (major, minor) = code.compute_capability;
                assert_eq!(header.e_machine.get(object::Endianness::Little), object::elf::EM_CUDA);
                let number = header.e_flags.get(object::Endianness::Little).0 & 0xff;
                assert_eq!(number, 10 * major + minor, "{element:?}");
                let defined: Vec<_> = file.symbols().filter_map(|symbol| symbol.name().ok()).collect();
                for name in names(&ptx) {
                    assert!(defined.contains(&name), "{element:?} for sm_{number}: {name} in {defined:?}");
                }
            }
        }
    }
}
