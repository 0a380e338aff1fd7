//! What the host makes of the kernels' PTX before it launches them.

use crate::cuda::for_hopper;
use crate::element::ElementType;
use crate::nvlink::{DeviceElement, ptx};

#[test]
fn every_kernel_waits_for_the_launch_in_front_of_it_before_it_does_anything() {
    let own = [None, Some(DeviceElement::F8E4M3), Some(DeviceElement::F8E5M2)];
    let elements = ElementType::ALL.map(|element| Some(DeviceElement::Of(element)));
    for element in own.into_iter().chain(elements) {
        let hopper = for_hopper(ptx(element)).expect("kernels that wait");
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
        assert_eq!(kernels, if element.is_none() { 8 } else { 5 }, "{element:?}");
    }
}
