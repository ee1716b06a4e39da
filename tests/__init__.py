"""What the tests compile with, in processes of their own too."""

# Most of the tests' time is compiling: with few of LLVM's optimizations it takes two thirds.
FAST_COMPILING = "--xla_backend_optimization_level=1"
