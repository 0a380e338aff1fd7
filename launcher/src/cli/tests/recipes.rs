//! Command lines as guides and scripts have them: each is a job, and its translation is what it always was.

use super::*;

/// Where each was seen, and the line without its first word.
pub(super) const RECIPES: &[(&str, &str)] = &[
    (
        "EC2's guide to EFA and NCCL",
        "-x FI_EFA_USE_DEVICE_RDMA=1 -x LD_LIBRARY_PATH=/opt/nccl/build/lib:/usr/local/cuda/lib64:/opt/amazon/efa/lib \
         -x NCCL_DEBUG=INFO --hostfile my-hosts -n 8 -N 8 --mca pml ^cm --mca btl tcp,self --mca btl_tcp_if_exclude \
         lo,docker0 --bind-to none ./build/all_reduce_perf -b 8 -e 1G -f 2 -g 1 -c 1 -n 100",
    ),
    (
        "an MPIJob on EKS",
        "--allow-run-as-root --tag-output -np 16 -N 8 --bind-to none -x PATH -x LD_LIBRARY_PATH -x FI_PROVIDER=efa \
         -x FI_EFA_FORK_SAFE=1 -x NCCL_DEBUG=INFO --mca pml ^ucx --mca btl tcp,self --mca btl_tcp_if_exclude \
         lo,docker0,veth_def_agent /opt/nccl-tests/build/all_reduce_perf -b 8 -e 16G -f 2 -g 1 -c 1 -n 100",
    ),
    ("a DLAMI", "-np 16 --hostfile hosts -N 8 --mca plm_rsh_no_tree_spawn 1 ./all_reduce_perf"),
    (
        "SMDDP on ParallelCluster",
        "-N 1 --tag-output --bind-to none --oversubscribe --allow-run-as-root -H a,b sh -c \
         torch.distributed.launch\\ --node_rank=$OMPI_COMM_WORLD_RANK",
    ),
    (
        "SageMaker",
        "-x FI_EFA_USE_DEVICE_RDMA=1 -x FI_PROVIDER=efa -x RDMAV_FORK_SAFE=1 --mca btl_vader_single_copy_mechanism none \
         -np 8 --mca btl_vader_single_copy_mechanism none ./train",
    ),
    (
        "a test script of a GPU cluster",
        "--debug-devel -bind-to none -mca plm_rsh_agent ssh_helper -np 8 -npernode 4 --hostfile hosts -- prog --its-own",
    ),
    (
        "Neuron",
        "--mca mtl ^ofi --mca btl tcp,self --bind-to none -np 2 --hostfile F --prefix /opt/amazon/openmpi -x PATH ./train",
    ),
    (
        "Horovod on Kubernetes",
        "-np 4 -H a:4 -bind-to none -map-by slot -mca pml ob1 -mca btl ^openib -mca plm_rsh_args -p\\ 12345\\ -i\\ key python train.py",
    ),
    (
        "Horovod, a program per GPU",
        "-H a:1 -x CUDA_VISIBLE_DEVICES=0 -np 1 p : -H b:1 -x CUDA_VISIBLE_DEVICES=1 -np 1 p",
    ),
    ("nccl-tests' README", "-np 64 -N 8 ./build/all_reduce_perf -b 8 -e 8G -f 2 -g 1"),
    (
        "MPICH's and Intel MPI's mpiexec",
        "-f hosts -ppn 4 -n 8 -genv I_MPI_DEBUG 5 -genvlist A,B -launcher ssh -l -disable-auto-cleanup ./p",
    ),
    (
        "mpirun 5's spellings",
        "--np 4 --prtemca prte_keep_fqdn_hostnames 1 --runtime-options donotlaunch --output tag ./p",
    ),
];

#[test]
fn recipes_translate_as_they_always_did() {
    let mut text = String::new();
    for (origin, line) in RECIPES {
        let words = shell_words::split(line).unwrap();
        let Command::Run(job) = parse_words(words.iter().map(OsString::from)).unwrap() else {
            panic!("{origin} is no job")
        };
        assert!(!job.apps.is_empty());
        let translated = [OsString::from("translate"), "/usr/bin/mpirun".into()];
        let translated = translated.into_iter().chain(words.iter().map(OsString::from));
        let Command::Print(translation) = parse_words(translated).unwrap() else { panic!("{origin}") };
        text.push_str(&format!("# {origin}\n{translation}\n"));
        check_same_job(&translation, &job);
    }
    insta::assert_snapshot!("recipes", text);
}

/// The translation's line is the same job, parameters having become exports.
fn check_same_job(translation: &str, job: &JobSpec) {
    let line = translation.lines().next().unwrap();
    let words = shell_words::split(line).unwrap();
    let Command::Run(again) = parse_words(words.iter().skip(1).map(OsString::from)).unwrap() else {
        panic!("{line} is no job")
    };
    let mut expected = job.clone();
    let parameters = std::mem::take(&mut expected.parameters).into_iter();
    let exports: Vec<Export> = parameters.map(|(name, value)| Export::Set(name, value)).collect();
    for app in &mut expected.apps {
        app.exports.splice(0..0, exports.iter().cloned());
    }
    expected.notes.clear();
    assert_eq!(*again, expected, "{line}");
}
