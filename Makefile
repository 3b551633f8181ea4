# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Needed beforehand: Python >= 3.10 with venv, and make.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
RUNS   := runs

.PHONY: demo test lint train evaluate notebook picture clean

# the notebook from a clean kernel; pictures, texts and records land in output/<mode>
demo: $(READY)
	mkdir -p output
	$(BIN)/python -m nbconvert --to notebook --execute run_inference_analyse.ipynb \
		--output-dir output --output demo.ipynb
	@echo "Look into output/t2i, output/i2i, output/i2t, output/t2t, and output/demo.ipynb."

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# every stage from nothing into pretrained/; stop and start again at will
train: $(READY)
	$(BIN)/python -m training all --runs $(RUNS)

evaluate: $(READY)
	$(BIN)/python -m analysis evaluate --model vd-mini --n 1000 --seed 7

# the notebook as it is committed, with its outputs
notebook: $(READY)
	$(BIN)/python -m nbconvert --to notebook --execute --inplace run_inference_analyse.ipynb \
		--ExecutePreprocessor.record_timing=False

# the README's figure
picture: $(READY)
	rm -rf output/picture
	$(BIN)/python -m analysis t2i --n 4 --seed 20 --sheet --out output/picture \
		"a large red circle above a small blue square on a white background" \
		"a striped picture of a small green star left of a big yellow heart on gray" \
		"a large blue star with dots on cream"
	cp output/picture/sheets/0001_*.png assets/readme_t2i.png

# the environment is made again whenever the requirements change
$(READY): requirements_analyse.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python >= 3.10 is needed: make PYTHON=/path/to/python3 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV) || \
		{ echo "python3 -m venv failed: install your system's python3-venv package."; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements_analyse.txt
	@touch $@

clean:
	rm -rf $(VENV)
