# Parent of warm bash children: reads the numbers of places on stdin, and forks a shell for each. The
# fork in between ends at once, so that the shells become children of the daemon. Started as
#
#     bash --noprofile --norc bash.sh FOLDER
#
# with descriptor 3 for answers. A shell waits until its work comes through the place's ".c": lines that set
# environment, stdin, stdout, stderr and $0. It begins when it has done them.
if ((BASH_VERSINFO[0] < 5)); then # no BASH_ARGV0
    printf 'old\n' >&3
    exit
fi
printf 'up %s\n' "$((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1]))" >&3
__attune_folder=$1 __attune_self=$0
set --
while IFS= read -r __attune_places; do
    (
        set -m # an ordinary background job would ignore SIGINT and SIGQUIT for ever
        for __attune_place in $__attune_places; do
            {
                set +m
                . "$__attune_folder/$__attune_place.c"
                [[ $0 != "$__attune_self" ]] || exit # no work came: this file is none
                unset -v __attune_folder __attune_self __attune_place __attune_places __attune_forked
                BASH_SUBSHELL=0 SECONDS=0
                . "$0"
                exit
            } &
            __attune_forked+=" $__attune_place $!"
        done
        printf 'pids%s\n' "$__attune_forked" >&3
    )
    printf 'forked\n' >&3
done
