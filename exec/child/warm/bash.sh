# Parent of warm bash children: reads the numbers of places on stdin, and forks a shell for each. The
# fork in between ends at once, so that the shells become children of the daemon. Started as
#
#     bash --noprofile --norc bash.sh FOLDER
#
# with descriptor 3 for answers. A shell waits until the first lines of its work come through the place's
# ".c"; they set environment, stdout, stderr and $0. It then says so, and begins when its stdin opens.
if ((BASH_VERSINFO[0] < 5)); then # no BASH_ARGV0
    printf 'old\n' >&3
    exit
fi
printf 'up\n' >&3
__attune_folder=$1
set --
while IFS= read -r __attune_places; do
    (
        set -m # an ordinary background job would ignore SIGINT and SIGQUIT for ever
        for __attune_place in $__attune_places; do
            {
                set +m
                . "$__attune_folder/$__attune_place.c"
                printf 'ready %s\n' "$__attune_place" >&3
                # 254 is what set -m opened.
                exec <"$__attune_folder/$__attune_place.0" 3>&- 254>&-
                unset -v __attune_folder __attune_place __attune_places
                BASH_SUBSHELL=0 SECONDS=0
                . "$0"
                exit
            } &
            printf 'pid %s %s\n' "$__attune_place" "$!" >&3
        done
    )
    printf 'forked\n' >&3
done
