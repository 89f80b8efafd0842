import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # for tiny_model, which the configs of these tests import by its path
