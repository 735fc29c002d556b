# docker build -t mucode-agent . && docker run --rm mucode-agent
# It solves examples/problem.json with the embedded model, whose weights the first run fetches; keep them in a volume at
# /home/mucode/.cache. Docker's default profile forbids the namespaces of the sandbox, so
# programs run under the other layers, and a warning says so; for all of them: --security-opt seccomp=unconfined.
# Not built yet where it was written: there, its RUN pip line was run in an empty environment of Python 3.11, and
# `python -m mucode_agent doctor` from its directory found every layer.
FROM python:3.12-slim
RUN useradd --create-home mucode
WORKDIR /home/mucode/app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY mucode_agent mucode_agent
COPY examples examples
RUN pip install --no-cache-dir --constraint constraints.txt ".[local,openai,serve,mcp]"
USER mucode
EXPOSE 8000
ENTRYPOINT ["python", "-m", "mucode_agent"]
CMD ["solve", "examples/problem.json"]
