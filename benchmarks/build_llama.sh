#!/usr/bin/env bash
# Builds the llama.cpp that llama-cpp-python carries, with clang, for benchmarks/compare.py:
#
#     benchmarks/build_llama.sh DIR [native] [avx512] [avx2]
#
# DIR/native gets a library for this very processor, DIR/avx512 one without AMX, DIR/avx2 one that stops there.
# Hand a folder to compare.py as --llama-lib; it goes with the llama_cpp bindings of the same version. Needs
# python3 with pip, cmake, and a clang (CC, CXX; 19 by default). JOBS compilers run at once (default 1).
set -euo pipefail

readonly version=0.3.36
readonly folder=${1:?usage: benchmarks/build_llama.sh DIR [native] [avx512] [avx2]}
shift
[ $# -gt 0 ] || set -- native avx2
mkdir -p "$folder"
readonly source=$folder/llama_cpp_python-$version

if [ ! -d "$source" ]; then
    "${PYTHON:-python3}" -m pip download --quiet --no-deps --no-binary llama-cpp-python \
        --dest "$folder" "llama-cpp-python==$version"
    tar -xzf "$source.tar.gz" -C "$folder"
fi

flags_of() {
    case $1 in
    native) echo "-DGGML_NATIVE=ON" ;;
    avx512) echo "-DGGML_NATIVE=OFF -DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON" ;;
    avx2) echo "-DGGML_NATIVE=OFF -DGGML_AVX512=OFF" ;; # AVX2, FMA, F16C and BMI2 are on by default
    *)
        echo "unknown build '$1'; choose from native, avx512, avx2" >&2
        return 1
        ;;
    esac
}

for build in "$@"; do
    flags=$(flags_of "$build")
    # shellcheck disable=SC2086 # the flags are words
    cmake -S "$source/vendor/llama.cpp" -B "$source/build-$build" -DCMAKE_BUILD_TYPE=Release \
        -DCMAKE_C_COMPILER="${CC:-clang-19}" -DCMAKE_CXX_COMPILER="${CXX:-clang++-19}" -DBUILD_SHARED_LIBS=ON \
        -DCMAKE_INSTALL_RPATH='$ORIGIN' -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON \
        -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
        -DLLAMA_BUILD_SERVER=OFF -DLLAMA_CURL=OFF $flags
    cmake --build "$source/build-$build" --target llama -j "${JOBS:-1}"
    mkdir -p "$folder/$build"
    cp -a "$source/build-$build"/bin/lib*.so* "$folder/$build/"
    echo "$folder/$build"
done
