//! The remote command: `sh -c '…'`, one line that means the same to every login shell.
//!
//! sshd hands it to the user's login shell, so its quoting must hold in sh, bash, dash, zsh, csh, tcsh and fish: it
//! is one word in single quotes, and inside them there is no single quote, no exclamation mark (csh replaces it
//! even there), no backslash (fish unescapes it there) and no end of line (csh cannot read one there). Only POSIX
//! commands are run, and `head -c`, which every Linux has.
//!
//! It answers in lines that begin with [`MARKER`], so that whatever start-up files print is told apart:
//!
//! | line            | meaning                                                                   |
//! |-----------------|---------------------------------------------------------------------------|
//! | `arch X86`      | the machine's `uname -m`; always first                                    |
//! | `need`          | send the executable, exactly as many bytes as the command names           |
//! | `skip WHY`      | a cache will not do, and why; the next one is tried                       |
//! | `run PATH`      | the next thing is the agent; nothing but the agent uses the streams       |
//! | `fail`          | no cache is left                                                          |
//!
//! On standard error it writes one line, `agent`, just before the agent: what comes before it is not the agent's.
//!
//! A cache is a folder `efarun` in `$XDG_CACHE_HOME`, in `$HOME/.cache`, or in `$XDG_RUNTIME_DIR`, or it is
//! `/tmp/efarun-UID`, in this order. It is
//! used only if it is a real folder (no link) of the user's own with mode 0700: nobody else can have put anything
//! there. Each build has a folder of its own in it, named by its id, with the file `used` beside the executable, which
//! tells by its time when the build was started last. The newest builds are kept, older ones are removed by whoever
//! pushes.
//!
//! A launch waits for this script on every host, so where the build is found it starts one process, `ls`: a test of
//! what the shell can say itself (`-O` and `-h`, which every sh has) comes before it, and `read` takes the place of
//! `uname` where the kernel has the file (6.1). That is 2.5 ms of a core where a command for each took 7.

use efarun_wire::BuildId;

use crate::agent;

/// Begins every line that is meant for the head.
pub(crate) const MARKER: &str = "efarun:5f1c92d0b7a64e38:";

/// What `uname -m` says on machines that this build runs on.
pub(crate) const ARCHITECTURE: &str = std::env::consts::ARCH;

/// Makes the command for a build whose executable has `len_bytes` bytes.
pub(crate) fn remote_command(build: BuildId, len_bytes: u64) -> String {
    let statements: Vec<String> = SCRIPT
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            line.replace("@MARKER@", MARKER)
                .replace("@BUILD@", &build.to_string())
                .replace("@LEN@", &len_bytes.to_string())
                .replace("@ARCHITECTURE@", ARCHITECTURE)
                .replace("@AGENT@", agent::ARGUMENT)
                .replace("@KEPT@", &KEPT_BUILDS.to_string())
        })
        .collect();
    format!("sh -c '{}'", statements.join(" "))
}

/// Each line ends such that the lines can be joined by blanks.
const SCRIPT: &str = r#"
set -f; umask 077; unset IFS;
{ read -r arch </proc/sys/kernel/arch; } 2>/dev/null || arch=$(uname -m);
echo "@MARKER@ arch $arch";
[ "$arch" = @ARCHITECTURE@ ] || exit 71;

# Whether a cache has this build: the cache as `private` says, the file whole. All in one `ls`, as every launch waits
# for this. Its line about `.` has nine words: mode, links, owner, group, size, three for the time, name.
has_build() {
    [ -O "$1" ] || return 1;
    [ -h "$1" ] && return 1;
    cache=$1;
    set -- $(cd "$1" >/dev/null 2>&1 && LC_ALL=C ls -ldn . @BUILD@/efarun 2>/dev/null);
    case "${1:-}" in
        drwx------|drwx------?) ;;
        *) return 1;;
    esac;
    [ "${14:-}" = @LEN@ ] && [ -x "$cache/@BUILD@/efarun" ];
};
run() {
    { true >"${1%/*}/used"; } 2>/dev/null;
    echo "@MARKER@ agent" >&2;
    echo "@MARKER@ run $1";
    exec "$1" @AGENT@;
};

# A start-up file may have set a cache folder that does not exist here: it is only tried.
set --;
[ -n "${XDG_CACHE_HOME:-}" ] && set -- "$XDG_CACHE_HOME/efarun";
[ -n "${HOME:-}" ] && set -- "$@" "$HOME/.cache/efarun";
[ -n "${XDG_RUNTIME_DIR:-}" ] && set -- "$@" "$XDG_RUNTIME_DIR/efarun";
for cache; do
    has_build "$cache" && run "$cache/@BUILD@/efarun";
done;
me=$(id -u);
cache=/tmp/efarun-$me;
has_build "$cache" && run "$cache/@BUILD@/efarun";
set -- "$@" "$cache";

# Whether a folder is really one, private, and ours. `ls` of a link shows the link.
private() {
    set -- $(ls -ldn "$1" 2>/dev/null);
    case "${1:-} ${3:-}" in
        "drwx------ $me"|"drwx------? $me") return 0;;
    esac;
    return 1;
};
size() { set -- $(wc -c <"$1" 2>/dev/null); echo "${1:-0}"; };
left() { set -- $(df -Pk "$1" 2>/dev/null | tail -n 1); echo "$((${4:-0} * 1024))"; };

for cache; do
    folder=$cache/@BUILD@;
    part=$folder/part-$(uname -n)-$$;
    why=$(mkdir -p "${cache%/*}" 2>&1; mkdir "$cache" 2>&1);
    if private "$cache"; then
        why=$(mkdir "$folder" 2>&1);
        if why=$( { true >"$part"; } 2>&1 ) && chmod 700 "$part" && [ -x "$part" ]; then
            echo "@MARKER@ need";
            # The left side reads to the last byte even when the right side cannot write.
            why=$( { head -c @LEN@ | { cat >"$part" || cat >/dev/null; }; } 2>&1 );
            if [ "$(size "$part")" = @LEN@ ] && mv -f "$part" "$folder/efarun"; then
                for old in $(cd "$cache" && set +f && ls -1td */used 2>/dev/null | tail -n +@KEPT@); do
                    rm -rf "$cache/${old%/*}";
                done;
                run "$folder/efarun";
            fi;
            why="$(size "$part") of @LEN@ bytes arrived, $(left "$cache") bytes are free there; $why";
        elif [ -e "$part" ]; then
            why="programs may not be run from it (mounted noexec)";
        fi;
        rm -f "$part";
        rmdir "$folder" 2>/dev/null;
    elif [ -e "$cache" ]; then
        why="not a folder of mode 0700 that belongs to user $me";
    fi;
    echo "@MARKER@ skip $cache:" $why;
done;
echo "@MARKER@ fail";
exit 71
"#;

/// Builds that stay in a cache.
const KEPT_BUILDS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_one_quoted_word_for_every_shell() {
        let command = remote_command(BuildId([7; 16]), 1234);
        let quoted = command.strip_prefix("sh -c '").and_then(|rest| rest.strip_suffix('\'')).unwrap();
        assert!(!quoted.contains(['\'', '!', '\\', '\n', '@']) || quoted.contains("$@"), "{quoted}");
        assert_eq!(
            quoted.matches('@').count(),
            quoted.matches("\"$@\"").count(),
            "a place was not filled: {quoted}"
        );
    }
}
