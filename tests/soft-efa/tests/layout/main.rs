//! Whether this package's view of verbs' memory is that of the installed headers.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports by printing"
)]

use std::collections::BTreeMap;
use std::mem::{offset_of, size_of};
use std::path::Path;
use std::process::Command;

use softefa::abi::*;

/// Lists structs with fields, and numbers, once for both languages: what C is to print, and what Rust has.
macro_rules! layout {
    (
        structs { $($keyword:ident $name:ident { $($field:ident $(. $inner:ident)* $(as $c_field:literal)?),* $(,)? })* }
        numbers { $($number:ident),* $(,)? }
    ) => {
        fn c_program() -> String {
            let mut lines = String::new();
            $(
                lines += concat!("SIZE(", stringify!($keyword), ", ", stringify!($name), ");\n");
                $(lines += &format!(
                    "FIELD({}, {}, {});\n", stringify!($keyword), stringify!($name), c_name!($field $(as $c_field)?)
                );)*
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
                    offset_of!($name, $field $(. $inner)*) as u64,
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
        union ibv_gid { raw }
        struct ibv_device { _ops, node_type, transport_type, name, dev_name, dev_path, ibdev_path }
        struct ibv_context_ops { poll_cq, req_notify_cq, post_send, post_recv }
        struct ibv_context { device, ops, cmd_fd, async_fd, num_comp_vectors, mutex, abi_compat }
        struct verbs_context { query_port, create_cq_ex, create_qp_ex, sz, context }
        struct ibv_device_attr { fw_ver, node_guid, sys_image_guid, max_mr_size, page_size_cap, vendor_id,
            vendor_part_id, hw_ver, max_qp, max_qp_wr, device_cap_flags, max_sge, max_sge_rd, max_cq, max_cqe, max_mr,
            max_pd, atomic_cap, max_ah, max_srq_sge, max_pkeys, local_ca_ack_delay, phys_port_cnt }
        struct ibv_port_attr { state, max_mtu, active_mtu, gid_tbl_len, port_cap_flags, max_msg_sz, bad_pkey_cntr,
            qkey_viol_cntr, pkey_tbl_len, lid, sm_lid, lmc, max_vl_num, sm_sl, subnet_timeout, init_type_reply,
            active_width, active_speed, phys_state, link_layer, flags, port_cap_flags2 }
        struct ibv_pd { context, handle }
        struct ibv_mr { context, pd, addr, length, handle, lkey, rkey }
        struct ibv_ah { context, pd, handle }
        struct ibv_global_route { dgid, flow_label, sgid_index, hop_limit, traffic_class }
        struct ibv_ah_attr { grh, dlid, sl, src_path_bits, static_rate, is_global, port_num }
        struct ibv_sge { addr, length, lkey }
        struct ibv_data_buf { addr, length }
        struct ibv_recv_wr { wr_id, next, sg_list, num_sge }
        struct ibv_send_wr { wr_id, next, sg_list, num_sge, opcode, send_flags, imm_data, wr as "wr.ud" }
        struct ibv_qp_cap { max_send_wr, max_recv_wr, max_send_sge, max_recv_sge, max_inline_data }
        struct ibv_qp_init_attr_ex { qp_context, send_cq, recv_cq, srq, cap, qp_type, sq_sig_all, comp_mask, pd, xrcd,
            create_flags, max_tso_header, rwq_ind_tbl, source_qpn, send_ops_flags }
        struct ibv_qp_attr { qp_state, cur_qp_state, qkey, cap, ah_attr, alt_ah_attr, pkey_index, rnr_retry, rate_limit }
        struct ibv_qp { context, qp_context, pd, send_cq, recv_cq, srq, handle, qp_num, state, qp_type, mutex, cond,
            events_completed }
        struct ibv_qp_ex { qp_base, comp_mask, wr_id, wr_flags, wr_rdma_read, wr_rdma_write, wr_rdma_write_imm, wr_send,
            wr_send_imm, wr_send_inv, wr_send_tso, wr_set_ud_addr, wr_set_xrc_srqn, wr_set_inline_data,
            wr_set_inline_data_list, wr_set_sge, wr_set_sge_list, wr_start, wr_complete, wr_abort }
        struct ibv_async_event { element, event_type }
        struct ibv_comp_channel { context, fd, refcnt }
        struct ibv_cq { context, channel, cq_context, handle, cqe, mutex, cond, comp_events_completed,
            async_events_completed }
        struct ibv_cq_ex { comp_mask, status, wr_id, start_poll, next_poll, end_poll, read_opcode, read_vendor_err,
            read_byte_len, read_imm_data, read_qp_num, read_src_qp, read_wc_flags, read_slid, read_sl,
            read_dlid_path_bits }
        struct ibv_cq_init_attr_ex { cqe, cq_context, channel, comp_vector, wc_flags, comp_mask, flags, parent_domain }
        struct efadv_device_attr { comp_mask, max_sq_wr, max_rq_wr, max_sq_sge, max_rq_sge, inline_buf_size, device_caps,
            max_rdma_size }
        struct efadv_ah_attr { comp_mask, ahn }
        struct efadv_cq { comp_mask, wc_read_sgid }
        struct efadv_cq_init_attr { comp_mask, wc_flags }
        struct efadv_qp_init_attr { comp_mask, driver_qp_type }
    }
    numbers {
        IBV_NODE_UNSPECIFIED, IBV_TRANSPORT_UNSPECIFIED, IBV_PORT_DOWN, IBV_PORT_ACTIVE, IBV_MTU_4096,
        IBV_FORK_UNNEEDED, IBV_QPT_UD, IBV_QPT_DRIVER, IBV_QPS_RESET, IBV_QPS_RTR, IBV_QPS_RTS, IBV_QPS_ERR,
        IBV_QP_STATE, IBV_QP_QKEY, IBV_QP_RNR_RETRY, IBV_QP_INIT_ATTR_SEND_OPS_FLAGS, IBV_QP_EX_WITH_RDMA_WRITE, IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM,
        IBV_QP_EX_WITH_SEND, IBV_QP_EX_WITH_SEND_WITH_IMM, IBV_QP_EX_WITH_RDMA_READ, IBV_WC_SEND, IBV_WC_RDMA_WRITE,
        IBV_WC_RDMA_READ, IBV_WC_RECV, IBV_WC_RECV_RDMA_WITH_IMM, IBV_WC_WITH_IMM, IBV_WR_SEND, IBV_WR_SEND_WITH_IMM,
        IBV_SEND_INLINE, IBV_EVENT_DEVICE_FATAL, IBV_EVENT_PORT_ACTIVE, IBV_EVENT_PORT_ERR, EFADV_DEVICE_ATTR_CAPS_RDMA_READ, EFADV_DEVICE_ATTR_CAPS_RNR_RETRY,
        EFADV_DEVICE_ATTR_CAPS_CQ_WITH_SGID, EFADV_WC_EX_WITH_SGID, EFADV_QP_DRIVER_TYPE_SRD,
    }
}

/// Structs with fields that newer headers than the oldest supported ones have.
const MAY_BE_SMALLER_IN_C: [&str; 4] = ["ibv_port_attr", "efadv_device_attr", "efadv_cq", "ibv_qp_ex"];
/// Tables that newer headers than 44's have appended to.
const MAY_BE_LARGER_IN_C: [&str; 3] = ["ibv_qp_ex", "efadv_qp_init_attr", "efadv_cq"];

#[test]
fn declarations_have_the_layout_of_the_installed_headers() {
    if !Path::new("/usr/include/infiniband/efadv.h").exists() {
        return skip("no /usr/include/infiniband/efadv.h: install libibverbs-dev");
    }
    if Command::new("gcc").arg("--version").output().is_err() {
        return skip("no gcc to read the headers with");
    }
    let c_view = run_c_program();
    let rust_view = rust_view();
    assert_eq!(c_view.len(), rust_view.len());
    let agree = |name: &str, c: u64, rust: u64| {
        c == rust
            || (c < rust && MAY_BE_SMALLER_IN_C.contains(&name))
            || (c > rust && MAY_BE_LARGER_IN_C.contains(&name))
    };
    let wrong: Vec<String> = rust_view
        .iter()
        .filter(|(name, rust)| !agree(name, c_view[*name], **rust))
        .map(|(name, rust)| format!("{name}: {} in C, {rust} here", c_view[name]))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/layout/layout.c"))
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

fn skip(missing: &str) {
    let required = std::env::var("EFARUN_TEST_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name == "soft-efa"), "EFARUN_TEST_REQUIRE={required}: {missing}");
    println!("SKIPPED: declarations_have_the_layout_of_the_installed_headers: {missing}");
}
