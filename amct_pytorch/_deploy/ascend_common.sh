# Read by the scripts of this directory: where CANN is, how a network is compiled, and what to look at if that fails.

python="${PYTHON:-python3}"

# Sources the set_env.sh of CANN, which lies in cann from CANN 8.5 on and in ascend-toolkit before, unless that was done.
set_up_cann() {
  local folder
  if [ -n "${ASCEND_HOME_PATH:-}" ] || command -v atc > /dev/null; then
    return
  fi
  for folder in {"${HOME:-}",/usr/local}/Ascend/{cann,ascend-toolkit}; do
    if [ -f "$folder/set_env.sh" ]; then
      echo "source $folder/set_env.sh"
      set +eu # it reads variables that are not set
      source "$folder/set_env.sh"
      set -eu
      return
    fi
  done
}

# Checks that atc is there, and says which Python it will run. On a host without a card, atc loads stand-ins of the
# driver's libraries.
prepare_atc() {
  local cann folder
  if ! command -v atc > /dev/null; then
    echo "atc is not on the PATH: install CANN's toolkit and the ops package of the chip, then source the set_env.sh" \
      "in its folder, /usr/local/Ascend/cann (ascend-toolkit before CANN 8.5)" >&2
    exit 127
  fi
  cann="${ASCEND_HOME_PATH:-$(dirname "$(dirname "$(command -v atc)")")}"
  folder="$cann/$(uname -m)-linux/devlib"
  if [ ! -e /dev/davinci_manager ] && [ -d "$folder" ]; then
    export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder"
  fi
  python3 check_python.py >&2 || true
}

# compile NETWORK SOC_VERSION OPTION...: compiles NETWORK.onnx into NETWORK_SOC_VERSION_$precision.om.
compile() {
  local network="$1" soc_version="$2" output status=0 made
  shift 2
  output="${network}_${soc_version}_$precision"
  if [ "$precision" = origin ] && [ "${soc_version#Ascend950}" = "$soc_version" ]; then
    set -- --op_precision_mode=float32.ini "$@" # or convolutions in float32 compute in HF32; for Atlas A2 and A3 only
  fi
  rm -f "$output"_linux_*.om
  atc --mode=0 --framework=5 --model="$network.onnx" --output="$output" --soc_version="$soc_version" \
    --precision_mode_v2="$precision" "$@" || status=$?
  if [ "$status" != 0 ]; then
    explain_failure "$network" "$soc_version" >&2
    exit "$status"
  fi
  for made in "$output"_linux_*.om; do # atc may add the host that it compiles for to the name
    if [ -e "$made" ]; then
      mv "$made" "$output.om"
    fi
  done
}

explain_failure() {
  local network="$1" soc_version="$2"
  rm -f "check_$network.json"
  atc --mode=3 --framework=5 --model="$network.onnx" --soc_version="$soc_version" \
    --check_report="check_$network.json" > /dev/null 2>&1 || true
  echo
  echo "atc failed on $network.onnx. What to look at:"
  if [ -f "check_$network.json" ]; then
    echo "- check_$network.json: what its parser finds in each operator (atc --mode=3)"
  fi
  echo "- whether CANN's ops package for this chip is installed, and $soc_version is its name (see README.md)"
  echo "- the Python that atc runs:"
  python3 check_python.py || true
}

check_ais_bench() {
  if ! "$python" -c "import ais_bench.infer" 2> /dev/null; then
    echo "$("$python" --version) ($python) has no ais_bench. Install the wheels aclruntime and ais_bench of Ascend's" \
      "tools. They are not built for Python 3.12 and later [3rd]: there, install them in an environment of Python" \
      "3.11 or earlier, and start this script with PYTHON=/path/to/its/bin/python3" >&2
    exit 2
  fi
}

set_up_cann
