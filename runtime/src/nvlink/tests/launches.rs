//! What the kernels' code is on the device, and what the host makes of their PTX where it has no other.

use crate::cuda::tests::device;
use crate::cuda::{Module, for_hopper};
use crate::element::ElementType;
use crate::nvlink::{DeviceElement, code};

#[test]
fn every_kernel_waits_for_the_launch_in_front_of_it_before_it_does_anything() {
    let own = [None, Some(DeviceElement::F8E4M3), Some(DeviceElement::F8E5M2)];
    let elements = ElementType::ALL.map(|element| Some(DeviceElement::Of(element)));
    for element in own.into_iter().chain(elements) {
        let hopper = for_hopper(&code(element).ptx()).expect("kernels that wait");
        assert!(hopper.contains("\n.target sm_90\n") && !hopper.contains(".target sm_80"), "{element:?}");
        let mut kernels = 0;
        for kernel in hopper.split(".visible .entry ").skip(1) {
            let name = kernel.split('(').next().unwrap_or_default();
            let wait = kernel.find("\tgriddepcontrol.wait;");
            let wait = wait.unwrap_or_else(|| panic!("{element:?}: {name} does not wait"));
            // Anything that looks at memory but a launch's parameters, or that ends the kernel.
            let works =
                ["\tld.volatile.", "\tld.global", "\tld.u", "\tst.", "\tbar.", "\tatom.", "\tcall", "\tret;"];
            let first = works.iter().filter_map(|work| kernel.find(work)).min();
            assert!(first.is_some_and(|first| wait < first), "{element:?}: {name} does something before");
            kernels += 1;
        }
        assert_eq!(kernels, if element.is_none() { 10 } else { 7 }, "{element:?}");
    }
}

#[test]
fn the_driver_takes_machine_code_and_ptx_alike() {
    let test = "the_driver_takes_machine_code_and_ptx_alike";
    let Some(device) = device(test) else { return };
    for element in std::iter::once(None).chain(DeviceElement::all().map(Some)) {
        let Some(module) = Module::of_machine_code(&device, code(element)) else {
            println!("SKIPPED: {test}: there is no machine code for this GPU");
            return;
        };
        let module = module.unwrap_or_else(|error| panic!("{element:?}: {error}"));
        module.kernel(c"relay").expect("in it");
    }
    // The driver takes seconds for each.
    Module::load(&device, &code(None).ptx()).expect("PTX").kernel(c"all_messages").expect("in it");
}
