#!/usr/bin/env bash
# Builds the packages into dist/: a .deb, a .rpm, the bill of materials and SHA256SUMS. Two builds of one
# commit give the same bytes, wherever they are made. Called by `make package`, which says the version.
#
#   VERSION=v1.2.3 COMMIT=… DATE=… contrib/package/build.sh
set -euo pipefail
cd "$(dirname "$0")/../.."

NFPM=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.0
: "${VERSION:?}" "${COMMIT:?}" "${DATE:?}"

# Times are the commit's, whatever clock and zone the machine has.
SOURCE_DATE_EPOCH=$(date -d "$DATE" +%s)
MTIME=$(date -u -d "$DATE" +%Y-%m-%dT%H:%M:%SZ)
stamp=$(date -u -d "$DATE" +%Y%m%d%H%M%S)

# v1.2.3 is 1.2.3; v1.2.3-4-gabc, four commits later, is 1.2.3+4.gabc; without any tag a version comes
# before all others.
case $VERSION in
v[0-9]*) PACKAGE_VERSION=$(sed -E 's/^v//; s/-([0-9]+)-g/+\1.g/; s/-dirty$/+dirty/; s/-/~/g' <<<"$VERSION") ;;
*) PACKAGE_VERSION=0~git$stamp.${VERSION//-/+} ;;
esac
ARCH=${ARCH:-$(go env GOARCH)}

umask 022
BUILD=$(mktemp -d)
trap 'rm -rf "$BUILD"' EXIT
build() {
    # Static, so that the package needs no libc of a certain age.
    GOARCH=$2 CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$1" \
        -ldflags "-s -w -buildid= -X main.version=$VERSION -X main.commit=$COMMIT -X main.date=$DATE" ./daemon/attune
}
build "$BUILD/attune" "$ARCH"
# What the command says of itself is the same on all machines, so the one of this machine may say it.
here=$BUILD/attune
if [[ $ARCH != $(go env GOARCH) ]]; then
    here=$BUILD/here
    build "$here" "$(go env GOARCH)"
fi
"$here" manual "$BUILD/man1"
gzip -9n "$BUILD"/man1/*.1
"$here" completion bash >"$BUILD/attune.bash"
"$here" completion zsh >"$BUILD/_attune"
"$here" completion fish >"$BUILD/attune.fish"
"$here" version --sbom >"$BUILD/attune.cdx.json"

# The installed configuration names both folders of packs, and leaves everything else to the defaults: what
# an operator has not changed follows the next version's.
sed -E 's|^directory = "./packs"$|directory = ["/usr/share/attune/packs", "/etc/attune/packs"]|; t; s/^([a-z_]+ = )/#\1/' \
    attune.toml >"$BUILD/attune.toml"
grep -q '^directory = \["/usr/share/attune/packs"' "$BUILD/attune.toml"
{
    echo "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/"
    echo "Upstream-Name: attune"
    echo "Source: https://github.com/attune-io/attune"
    echo
    echo "Files: *"
    echo "Copyright: The Attune authors"
    echo "License: Apache-2.0"
    sed 's/^$/./; s/^/ /' LICENSE
} >"$BUILD/copyright"

mkdir -p dist
sed -e "s|\${ARCH}|$ARCH|; s|\${PACKAGE_VERSION}|$PACKAGE_VERSION|; s|\${MTIME}|$MTIME|; s|\${BUILD}|$BUILD|" \
    contrib/package/nfpm.yaml >"$BUILD/nfpm.yaml"
export SOURCE_DATE_EPOCH
rm -f dist/attune[_-]*.deb dist/attune[_-]*.rpm
for packager in deb rpm; do
    go run "$NFPM" package --config "$BUILD/nfpm.yaml" --packager "$packager" --target dist/ >/dev/null
done
cp "$BUILD/attune.cdx.json" dist/
(cd dist && sha256sum attune*.deb attune*.rpm attune.cdx.json >SHA256SUMS && cat SHA256SUMS)
