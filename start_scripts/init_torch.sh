#!/usr/bin/env bash
# Make the environment of this project: .venv beside the README. Run it again any time.
#
# A torch (2.10 or newer) and torchvision that the machine already has are kept, if an operator of
# torchvision really runs with them; otherwise the pair of requirements.txt is installed. Nothing
# outside the project is changed.
#
#   bash start_scripts/init_torch.sh
#   BASE_PYTHON=python3.12 bash start_scripts/init_torch.sh    # another interpreter, 3.10 to 3.13
#   WHEELS=DIR bash start_scripts/init_torch.sh                # from a folder of wheels, no network
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"
source "$(dirname -- "${BASH_SOURCE[0]}")/_install.sh"
venv=$PROJECT/.venv
requirements=$PROJECT/requirements.txt
self_test=(env PYTHONPATH="$PROJECT" "$venv/bin/python" -m fasterrcnn.self_test)

if [[ -n ${DRY_RUN:-} ]]; then
  announce "${BASE_PYTHON:-python3}" -m venv "$venv"
  announce "$venv/bin/python" -m pip install -r "$requirements"
  exit 0
fi
if environment_is_current && "${self_test[@]}"; then
  exit 0
fi

base=$(find_python)
wanted=$(mktemp)
trap 'rm -f -- "$wanted"' EXIT
if has_torch "$base"; then
  echo "keeping the torch and torchvision of $base"
  make_venv "$base" "$venv" --system-site-packages
  grep -v '^torch' "$requirements" >"$wanted"
else
  echo "installing torch and torchvision (this can take minutes)"
  make_venv "$base" "$venv"
  cp -- "$requirements" "$wanted"
fi
install_requirements "$base" "$venv/bin/python" "$wanted"
"${self_test[@]}" || fail 1 "$venv: the environment does not work; the message above says why"
cp -- "$requirements" "$venv/requirements.txt"
