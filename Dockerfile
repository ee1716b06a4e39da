# Serves a catalog: docker build -t search . && docker run -p 8000:8000 -v $PWD/my_shop:/shop search
FROM python:3.11-slim
COPY . /src
RUN pip install --no-cache-dir --constraint /src/requirements.lock "/src[search,pretrained]"
USER nobody
# Compiled code is kept at home.
ENV HOME=/tmp
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=10s --start-period=2m CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://localhost:8000/readyz', timeout=5)"]
ENTRYPOINT ["python", "-m", "grnet_jax.search", "serve", "/shop", "--host=0.0.0.0"]
# Or --token_file=FILE, which then has to be mounted, too.
CMD ["--public"]
