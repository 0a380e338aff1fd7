//! Command lines as guides and scripts have them, with `mpirun` replaced by `efarun` and numbers made small.
//!
//! How each is read is tested beside the parser; here the whole line runs on hosts, with whatever files and variables its
//! guide has around it.

use std::os::unix::fs::symlink;
use std::time::Duration;

use efarun_tests::echo::Echo;
use efarun_tests::{Job, Need, Outcome, Testbed, program, require};

use super::{hosts, on};

/// The launcher in the testbed's folder (whose file `hosts` is every host's /etc/hosts), where `./build/all_reduce_perf` tells how it was started.
fn in_folder(testbed: &Testbed) -> Job<'_> {
    let build = testbed.folder().join("build");
    std::fs::create_dir_all(&build).expect("the folder is the testbed's");
    for name in ["build/all_reduce_perf", "train", "launch"] {
        // It is there already when a test runs a second line.
        let _ = symlink(program!("rank_echo"), testbed.folder().join(name));
    }
    on(testbed).folder(testbed.folder()).deadline(DEADLINE)
}

/// A line as a shell cuts it, options and program alike.
fn run(job: Job<'_>, line: &str) -> Outcome {
    let words = shell_words::split(line).expect("the line's quotes are closed");
    job.options(words).run()
}

/// What ranks say whose lines have tags of Open MPI 4.1's before them.
#[track_caller]
fn tagged_echoes(outcome: &Outcome) -> Vec<Echo> {
    outcome.assert_code(0);
    let stdout = outcome.stdout();
    let parse = |line: &str| {
        let (tag, json) = line.split_once(':').expect("each line has a tag");
        let echo: Echo = serde_json::from_str(json).expect("what follows is the report");
        assert_eq!(tag, format!("[1,{}]<stdout>", echo.rank));
        echo
    };
    let mut echoes: Vec<Echo> = stdout.lines().map(parse).collect();
    echoes.sort_by_key(|echo| echo.rank);
    echoes
}

#[track_caller]
fn all_have(echoes: &[Echo], variables: &[(&str, &str)]) {
    for echo in echoes {
        for (name, value) in variables {
            assert_eq!(echo.text(name), *value, "{name}");
        }
    }
}

#[test]
fn ec2s_guide_to_efa() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    // As `curl` leaves it: addresses alone, one of them twice, no last newline.
    let [first, second] = ["h1", "h2"].map(|host| testbed.host(host).address.clone());
    std::fs::write(testbed.folder().join("my-hosts"), format!("{first}\n{second}\n{first}")).unwrap();
    let line = "-x FI_EFA_USE_DEVICE_RDMA=1 -x LD_LIBRARY_PATH=/opt/nccl/build/lib:/usr/local/cuda/lib64:$LD_LIBRARY_PATH \
         -x NCCL_DEBUG=INFO --hostfile my-hosts -n 2 -N 1 --mca pml ^cm --mca btl tcp,self --mca btl_tcp_if_exclude lo,docker0 \
         --bind-to none ./build/all_reduce_perf -b 8 -e 1G -f 2 -g 1 -c 1 -n 100";
    let outcome = run(in_folder(&testbed), line);
    outcome.assert_code(0);
    let echoes = Echo::all(&outcome);
    assert_eq!(hosts(&echoes), ["h1", "h2"]);
    assert_eq!(
        echoes[1].args(),
        ["-b", "8", "-e", "1G", "-f", "2", "-g", "1", "-c", "1", "-n", "100"],
        "everything behind the program is its own"
    );
    all_have(
        &echoes,
        &[
            ("FI_EFA_USE_DEVICE_RDMA", "1"),
            ("NCCL_DEBUG", "INFO"),
            ("OMPI_MCA_pml", "^cm"),
            ("OMPI_MCA_btl_tcp_if_exclude", "lo,docker0"),
        ],
    );
    assert!(echoes[1].text("LD_LIBRARY_PATH").starts_with("/opt/nccl/build/lib:/usr/local/cuda/lib64:"));
}

#[test]
fn a_container_on_eks() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let hostfile = testbed.hostfile_of("h1 slots=8\nh2 slots=8\n".to_owned());
    let job = in_folder(&testbed)
        .env("OMPI_MCA_orte_default_hostfile", hostfile)
        .env("OMPI_MCA_orte_keep_fqdn_hostnames", "true")
        .env("OMPI_MCA_plm_rsh_args", format!("-F {}", testbed.folder().join("ssh_config").display()))
        .env("LD_LIBRARY_PATH", "/opt/amazon/lib");
    let line = "--allow-run-as-root --tag-output -np 16 -N 8 --bind-to none -x PATH -x LD_LIBRARY_PATH -x FI_PROVIDER=tcp \
         -x FI_EFA_FORK_SAFE=1 -x NCCL_DEBUG=INFO --mca pml ^ucx --mca btl tcp,self \
         --mca btl_tcp_if_exclude lo,docker0,veth_def_agent ./build/all_reduce_perf -b 8 -e 16G -f 2 -g 1 -c 1 -n 100";
    let echoes = tagged_echoes(&run(job, line));
    assert_eq!(hosts(&echoes), [["h1"; 8], ["h2"; 8]].concat());
    let local: Vec<&str> = echoes.iter().map(|echo| echo.text("OMPI_COMM_WORLD_LOCAL_RANK")).collect();
    assert_eq!(local[6..10], ["6", "7", "0", "1"]);
    all_have(&echoes, &[("FI_PROVIDER", "tcp"), ("OMPI_COMM_WORLD_SIZE", "16"), ("FI_EFA_FORK_SAFE", "1")]);
    assert!(echoes[9].text("LD_LIBRARY_PATH").starts_with("/opt/amazon/lib"));
}

#[test]
fn a_dlami() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    // By its full path, and with this machine beside another.
    let mpirun = testbed.folder().join("mpirun");
    symlink(program!("efarun-under-test"), &mpirun).unwrap();
    let text = format!("localhost slots=8\n{} slots=8\n", testbed.host("h1").address);
    std::fs::write(testbed.folder().join("my-hosts"), text).unwrap();
    in_folder(&testbed);
    let job = Job::on(&testbed, &mpirun).folder(testbed.folder()).deadline(DEADLINE);
    let line = "-np 16 --hostfile my-hosts -N 8 --mca plm_rsh_no_tree_spawn 1 ./build/all_reduce_perf";
    let outcome = run(job, line);
    outcome.assert_code(0);
    assert_eq!(hosts(&Echo::all(&outcome)), [["head"; 8], ["h1"; 8]].concat());
}

#[test]
fn smddp_on_parallelcluster() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let line = "-N 1 --tag-output --bind-to none --oversubscribe --allow-run-as-root -H h1,h2 \
         sh -c 'exec ./launch --node_rank=$OMPI_COMM_WORLD_RANK'";
    let echoes = tagged_echoes(&run(in_folder(&testbed), line));
    assert_eq!(hosts(&echoes), ["h1", "h2"]);
    assert_eq!(echoes[0].args(), ["--node_rank=0"]);
    assert_eq!(echoes[1].args(), ["--node_rank=1"], "the rank's own shell expands it");
}

#[test]
fn sagemaker() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let line = "-x FI_EFA_USE_DEVICE_RDMA=1 -x RDMAV_FORK_SAFE=1 --mca btl_vader_single_copy_mechanism none -H h1:4,h2:4 \
         -np 8 --mca btl_vader_single_copy_mechanism none ./train";
    let outcome = run(in_folder(&testbed), line);
    outcome.assert_code(0);
    let echoes = Echo::all(&outcome);
    assert_eq!(echoes.len(), 8);
    all_have(
        &echoes,
        &[("OMPI_MCA_btl_vader_single_copy_mechanism", "none"), ("FI_EFA_USE_DEVICE_RDMA", "1")],
    );
    assert!(!outcome.stderr().contains("vader"), "twice the same is no news: {}", outcome.shown());
}

#[test]
fn a_script_with_an_agent_of_its_own() {
    use std::os::unix::fs::PermissionsExt;
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let helper = testbed.folder().join("ssh_helper");
    let calls = testbed.folder().join("calls");
    let script = format!(
        "#!/bin/sh\necho called >>{}\nexec ssh -F {} \"$@\"\n",
        calls.display(),
        testbed.folder().join("ssh_config").display()
    );
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let hostfile = testbed.hostfile(2);
    let path = format!("{}:{}", testbed.folder().display(), std::env::var("PATH").unwrap());
    let line = format!(
        "--debug-devel -bind-to none -mca plm_rsh_agent ssh_helper -np 4 -npernode 2 --hostfile {} -- ./train --its-own -np 9",
        hostfile.display()
    );
    let outcome = run(in_folder(&testbed).env("PATH", path), &line);
    outcome.assert_code(0).assert_says(&["`--debug-devel` is not acted on"]);
    let echoes = Echo::all(&outcome);
    assert_eq!(hosts(&echoes), ["h1", "h1", "h2", "h2"]);
    assert_eq!(echoes[3].args(), ["--its-own", "-np", "9"]);
    assert_eq!(std::fs::read_to_string(calls).unwrap().lines().count(), 2);
}

#[test]
fn neuron() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    testbed.hostfile_of("h1\nh2\n".to_owned());
    let line = "--mca mtl ^ofi --mca btl tcp,self --bind-to none -np 2 -N 1 --hostfile hostfile --prefix /opt/amazon/openmpi \
         -x PATH -x CCOM_SOCKET_IFNAME=eth0 ./train";
    let outcome = run(in_folder(&testbed), line);
    outcome.assert_code(0);
    let echoes = Echo::all(&outcome);
    assert_eq!(hosts(&echoes), ["h1", "h2"]);
    for echo in &echoes {
        assert!(echo.text("PATH").starts_with("/opt/amazon/openmpi/bin:"), "{}", echo.text("PATH"));
        assert!(echo.text("LD_LIBRARY_PATH").starts_with("/opt/amazon/openmpi/lib"));
    }
    all_have(&echoes, &[("CCOM_SOCKET_IFNAME", "eth0"), ("OMPI_MCA_mtl", "^ofi")]);
}

#[test]
fn horovod() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    testbed.sshd("h1", 12345, &[]);
    let key = testbed.home().join(".ssh/id_ed25519");
    // Containers' servers have keys that nobody knows.
    let ssh = format!("-p 12345 -i {} -o StrictHostKeyChecking=no", key.display());
    let line = format!(
        "-np 4 -H h1:4 -bind-to none -map-by slot -mca pml ob1 -mca btl ^openib -mca plm_rsh_args '{ssh}' ./train --epochs 3"
    );
    let outcome = run(in_folder(&testbed), &line);
    outcome.assert_code(0);
    let echoes = Echo::all(&outcome);
    assert_eq!(hosts(&echoes), ["h1"; 4]);
    assert_eq!(echoes[3].args(), ["--epochs", "3"]);
    let line =
        "-H h1:1 -x CUDA_VISIBLE_DEVICES=0 -np 1 ./train : -H h2:1 -x CUDA_VISIBLE_DEVICES=1 -np 1 ./train";
    let outcome = run(in_folder(&testbed), line);
    outcome.assert_code(0);
    let echoes = Echo::all(&outcome);
    assert_eq!(hosts(&echoes), ["h1", "h2"]);
    let devices = echoes.iter().map(|echo| echo.text("CUDA_VISIBLE_DEVICES")).collect::<Vec<_>>();
    assert_eq!(devices, ["0", "1"]);
}

#[test]
fn nccl_tests() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let job = in_folder(&testbed).env("SLURM_JOB_NODELIST", "h[1-2]").env("SLURM_TASKS_PER_NODE", "8(x2)");
    let outcome = run(job, "-np 16 -N 8 ./build/all_reduce_perf -b 8 -e 8G -f 2 -g 1");
    outcome.assert_code(0);
    assert_eq!(hosts(&Echo::all(&outcome)), [["h1"; 8], ["h2"; 8]].concat());
}

#[test]
fn mpiexecs_own_options() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    std::fs::write(testbed.folder().join("my-hosts"), "h1:4\nh2:4\n").unwrap();
    let job = in_folder(&testbed).env("A", "a").env("B", "b");
    let line = "-f my-hosts -ppn 4 -n 8 -genv I_MPI_DEBUG 5 -genvlist A,B -launcher ssh -l -disable-auto-cleanup ./train";
    let echoes = tagged_echoes(&run(job, line));
    assert_eq!(hosts(&echoes), [["h1"; 4], ["h2"; 4]].concat());
    all_have(&echoes, &[("I_MPI_DEBUG", "5"), ("A", "a"), ("B", "b"), ("MPI_LOCALNRANKS", "4")]);
}

/// Up to sixteen ranks, and ssh by hand, on a machine that may have much else to do.
const DEADLINE: Duration = Duration::from_secs(120);
