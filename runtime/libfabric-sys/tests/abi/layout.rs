//! The declarations of this crate against the C compiler's view of the installed headers.

use std::collections::BTreeMap;
use std::mem::{offset_of, size_of};
use std::path::Path;
use std::process::Command;

use libfabric_sys::*;

use crate::support;

/// Lists structs with fields, and numbers, once for both languages: what C is to print, and what Rust has.
macro_rules! layout {
    (
        structs { $($name:ident { $($field:ident $(as $c_field:literal)?),* $(,)? })* }
        numbers { $($number:ident),* $(,)? }
    ) => {
        fn c_program() -> String {
            let mut lines = String::new();
            $(
                lines += concat!("SIZE(", stringify!($name), ");\n");
                $(lines += &format!("FIELD({}, {});\n", stringify!($name), c_name!($field $(as $c_field)?));)*
            )*
            $(lines += concat!("NUMBER(", stringify!($number), ");\n");)*
            lines
        }

        fn rust_view() -> BTreeMap<String, u64> {
            let mut view = BTreeMap::new();
            $(
                view.insert(stringify!($name).to_owned(), size_of::<$name>() as u64);
                $(view.insert(
                    format!("{}.{}", stringify!($name), c_name!($field $(as $c_field)?)),
                    offset_of!($name, $field) as u64,
                );)*
            )*
            $(view.insert(stringify!($number).to_owned(), $number as u64);)*
            view
        }
    };
}

macro_rules! c_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident as $c_field:literal) => {
        $c_field
    };
}

layout! {
    structs {
        fi_info { next, caps, mode, addr_format, src_addrlen, dest_addrlen, src_addr, dest_addr, handle, tx_attr, rx_attr,
            ep_attr, domain_attr, fabric_attr, nic }
        fi_tx_attr { caps, mode, op_flags, msg_order, comp_order, inject_size, size, iov_limit, rma_iov_limit, tclass }
        fi_rx_attr { caps, mode, op_flags, msg_order, comp_order, total_buffered_recv, size, iov_limit }
        fi_ep_attr { type_ as "type", protocol, protocol_version, max_msg_size, msg_prefix_size, max_order_raw_size,
            max_order_war_size, max_order_waw_size, mem_tag_format, tx_ctx_cnt, rx_ctx_cnt, auth_key_size, auth_key }
        fi_domain_attr { domain, name, threading, control_progress, data_progress, resource_mgmt, av_type, mr_mode,
            mr_key_size, cq_data_size, cq_cnt, ep_cnt, tx_ctx_cnt, rx_ctx_cnt, max_ep_tx_ctx, max_ep_rx_ctx,
            max_ep_stx_ctx, max_ep_srx_ctx, cntr_cnt, mr_iov_limit, caps, mode, auth_key, auth_key_size, max_err_data,
            mr_cnt, tclass }
        fi_fabric_attr { fabric, name, prov_name, prov_version, api_version }
        fid_nic { fid, device_attr, bus_attr, link_attr, prov_attr }
        fi_device_attr { name, device_id, device_version, vendor_id, driver, firmware }
        fi_bus_attr { bus_type, pci as "attr.pci" }
        fi_pci_attr { domain_id, bus_id, device_id, function_id }
        fi_link_attr { address, mtu, speed, state, network_type }
        fid { fclass, context, ops }
        fi_ops { size, close, bind, control, ops_open }
        fid_fabric { fid, ops, api_version }
        fi_ops_fabric { size, domain, passive_ep, eq_open, wait_open, trywait }
        fid_domain { fid, ops, mr }
        fi_ops_domain { size, av_open, cq_open, endpoint }
        fi_ops_mr { size, reg, regv, regattr }
        fid_mr { fid, mem_desc, key }
        fid_av { fid, ops }
        fi_ops_av { size, insert, insertsvc, insertsym, remove, lookup, straddr }
        fid_eq { fid, ops }
        fi_ops_eq { size, read, readerr, write, sread, strerror }
        fid_cq { fid, ops }
        fi_ops_cq { size, read, readfrom, readerr, sread, sreadfrom, signal, strerror }
        fid_ep { fid, ops, cm, msg, rma, tagged, atomic, collective }
        fi_ops_ep { size, cancel, getopt, setopt }
        fi_ops_cm { size, setname, getname }
        fi_ops_msg { size, recv, recvv, recvmsg, send }
        fi_ops_rma { size, read, readv, readmsg, write, writev, writemsg, inject, writedata }
        fi_ops_tagged { size, recv, recvv, recvmsg, send, sendv, sendmsg }
        fi_context2 { internal }
        fi_msg { msg_iov, desc, iov_count, addr, context, data }
        fi_msg_tagged { msg_iov, desc, iov_count, addr, tag, ignore, context, data }
        fi_av_attr { type_ as "type", rx_ctx_bits, count, ep_per_node, name, map_addr, flags }
        fi_cq_attr { size, flags, format, wait_obj, signaling_vector, wait_cond, wait_set }
        fi_eq_attr { size, flags, wait_obj, signaling_vector, wait_set }
        fi_cq_data_entry { op_context, flags, len, buf, data }
        fi_cq_tagged_entry { op_context, flags, len, buf, data, tag }
        fi_cq_err_entry { op_context, flags, len, buf, data, tag, olen, err, prov_errno, err_data, err_data_size }
        fi_eq_err_entry { fid, context, data, err, prov_errno, err_data, err_data_size }
        fi_mr_attr { memory as "mr_iov", iov_count, access, offset, requested_key, context, auth_key_size, auth_key, iface,
            device }
    }
    numbers {
        FI_MSG, FI_RMA, FI_TAGGED, FI_READ, FI_WRITE, FI_RECV, FI_SEND, FI_TRANSMIT, FI_REMOTE_READ, FI_REMOTE_WRITE,
        FI_MULTI_RECV, FI_RX_CQ_DATA, FI_OPT_MIN_MULTI_RECV, FI_REMOTE_CQ_DATA, FI_COMPLETION, FI_INJECT, FI_INJECT_COMPLETE, FI_TRANSMIT_COMPLETE, FI_DELIVERY_COMPLETE,
        FI_HMEM, FI_LOCAL_COMM, FI_REMOTE_COMM, FI_NUMERICHOST, FI_SOURCE, FI_CONTEXT, FI_CONTEXT2,
        FI_MR_LOCAL, FI_MR_VIRT_ADDR, FI_MR_ALLOCATED, FI_MR_PROV_KEY, FI_MR_ENDPOINT, FI_MR_HMEM,
        FI_ADDR_UNSPEC, FI_FORMAT_UNSPEC, FI_SOCKADDR_IN, FI_SOCKADDR_IN6, FI_ADDR_EFA, FI_AV_UNSPEC, FI_AV_TABLE,
        FI_EP_RDM, FI_PROGRESS_UNSPEC, FI_PROGRESS_AUTO, FI_PROGRESS_MANUAL, FI_THREAD_UNSPEC, FI_THREAD_SAFE,
        FI_THREAD_DOMAIN, FI_RM_ENABLED, FI_WAIT_NONE, FI_WAIT_UNSPEC, FI_WAIT_FD, FI_CQ_FORMAT_DATA, FI_CQ_FORMAT_TAGGED,
        FI_HMEM_SYSTEM, FI_HMEM_CUDA, FI_GETWAIT, FI_ENABLE, FI_OPT_ENDPOINT, FI_OPT_FI_HMEM_P2P, FI_TYPE_INFO,
        FI_TYPE_CAPS, FI_TYPE_PROTOCOL, FI_EINTR, FI_EAGAIN, FI_ENOMEM, FI_EINVAL, FI_ENOSYS, FI_ENODATA, FI_ECANCELED,
        FI_EOTHER, FI_ETOOSMALL, FI_EAVAIL, FI_ETRUNC,
    }
}

/// Structs that the library allocates, or tables of which only the front is declared: the C struct may be larger.
const MAY_BE_LARGER_IN_C: [&str; 10] = [
    "fi_domain_attr",
    "fi_ops",
    "fi_ops_fabric",
    "fi_ops_domain",
    "fi_ops_av",
    "fi_ops_ep",
    "fi_ops_cm",
    "fi_ops_msg",
    "fi_ops_rma",
    "fi_ops_tagged",
];
/// Structs that are given to the library with fields of later versions: the C struct may be smaller, never larger.
const MAY_BE_SMALLER_IN_C: [&str; 3] = ["fi_cq_attr", "fi_cq_err_entry", "fi_mr_attr"];

#[test]
fn declarations_have_the_layout_of_the_installed_headers() {
    let test = "declarations_have_the_layout_of_the_installed_headers";
    if !Path::new("/usr/include/rdma/fabric.h").exists() {
        return support::skip(test, "no /usr/include/rdma/fabric.h: install libfabric-dev");
    }
    if Command::new("gcc").arg("--version").output().is_err() {
        return support::skip(test, "no gcc to read the headers with");
    }
    let c_view = run_c_program();
    let rust_view = rust_view();
    assert_eq!(c_view.len(), rust_view.len());
    let wrong: Vec<String> = rust_view
        .iter()
        .filter(|(name, rust)| {
            let c = &c_view[*name];
            let agree = if MAY_BE_LARGER_IN_C.contains(&name.as_str()) {
                c >= rust
            } else if MAY_BE_SMALLER_IN_C.contains(&name.as_str()) {
                c <= rust
            } else {
                c == *rust
            };
            !agree
        })
        .map(|(name, rust)| format!("{name}: {} in C, {rust} here", c_view[name]))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The fields that 1.17's headers lack, against the sizes that the headers of 2.5 give.
#[test]
fn later_fields_follow_without_gaps() {
    assert_eq!((offset_of!(fi_cq_err_entry, src_addr), size_of::<fi_cq_err_entry>()), (80, 88));
    assert_eq!(
        (
            offset_of!(fi_mr_attr, hmem_data),
            offset_of!(fi_mr_attr, page_size),
            offset_of!(fi_mr_attr, base_mr)
        ),
        (80, 88, 96)
    );
    assert_eq!((offset_of!(fi_mr_attr, sub_mr_cnt), size_of::<fi_mr_attr>()), (104, 112));
    assert_eq!((offset_of!(fi_cq_attr, xpu_ctx), size_of::<fi_cq_attr>()), (40, 48));
    assert_eq!((offset_of!(fi_mr_dmabuf, base_addr), size_of::<fi_mr_dmabuf>()), (24, 32));
}

fn run_c_program() -> BTreeMap<String, u64> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("layout.inc"), c_program()).unwrap();
    let program = folder.path().join("layout");
    let gcc = Command::new("gcc")
        .arg("-I")
        .arg(folder.path())
        .arg("-o")
        .arg(&program)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/abi/layout.c"))
        .output()
        .unwrap();
    assert!(gcc.status.success(), "{}", String::from_utf8_lossy(&gcc.stderr));
    let printed = Command::new(&program).output().unwrap().stdout;
    String::from_utf8(printed)
        .unwrap()
        .lines()
        .map(|line| {
            let (name, value) = line.split_once(' ').expect("name and number");
            (name.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}
